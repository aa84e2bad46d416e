"""Turns captured exchanges into events, and delivers them, stores them on disk, or counts them as dropped by cause.

The server builds, stores and sends: in the delivery process, or in a thread of the proxy (`moesif_background`).

    api        what delivery reports about itself: `Condition` (test: delivery/test_protocol_values.py)
    attempt    sends one batch and searches for events that the receiver rejects (test: delivery/test_sender.py)
    batch      events on their way to the receiver, and the outcome of each
    beside     records sent to Akto in addition to the events (test: test_akto.py)
    builder    the thread that builds events and stores them
    child      the delivery process as the proxy sees it (test: test_delivery_process.py)
    client     the proxy's side: hands exchanges over and limits how many wait (test: test_delivery_process.py)
    command    `moesif-proxy spool`: lists and manages the events on disk (test: delivery/test_command.py)
    connections  threads that make requests, each with its own connection
    keeper     keeps a server running: replaces it, or falls back to a thread (test: test_delivery_process.py)
    debug      logs each exchange when `debug` is on
    ledger     the counts: captured = delivered + waiting + dropped
    lossy      receivers that may lose records: bounded memory, one attempt, losses counted
    pipeline   combines builder, store and senders (test: test_delivery.py)
    process    the main program of the delivery process (test: test_delivery_process.py)
    protocol   the messages between client and server
    reading    reads the fields that every event has from its JSON (test: delivery/test_batch.py)
    sender     the thread that sends the events waiting for one destination
    server     carries out the client's commands, and reports
    thread     the server in a thread of the proxy (test: test_delivery_process.py)
    unsettled  exchanges that the server has not settled yet, and the search for a poison event
    watermark  logs once when the queue is nearly full (test: test_delivery.py)
"""
