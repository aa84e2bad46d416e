"""From a captured exchange to an event at its receiver, or on disk, or counted under a cause.

The server builds, stores and sends: in the delivery process, or in a thread of the proxy (`moesif_background`).

    api        what delivery tells of itself: `Condition` (test: delivery/test_protocol_values.py)
    attempt    one batch sent; the search for events that the receiver will not take (test: delivery/test_sender.py)
    batch      events on their way to the receiver, and what became of each
    beside     what goes to Akto beside the events (test: test_akto.py)
    builder    the thread that builds events and stores them
    child      the delivery process as the proxy sees it (test: test_delivery_process.py)
    client     the proxy's side: hands exchanges over, and bounds what waits (test: test_delivery_process.py)
    command    `moesif-proxy spool`: what waits on disk, and what becomes of it (test: delivery/test_command.py)
    connections  threads that make requests, each with a connection of its own
    keeper     keeps a server running: replaces it, or falls back to a thread (test: test_delivery_process.py)
    debug      what the log says of each exchange where that is asked for
    ledger     the counts: captured = delivered + waiting + dropped
    lossy      receivers that may lose records: bounded, tried once, counted
    pipeline   builder, store and senders put together (test: test_delivery.py)
    process    the main program of the delivery process (test: test_delivery_process.py)
    protocol   the messages between client and server
    reading    what every event has, out of its JSON (test: delivery/test_batch.py)
    sender     the thread that sends what waits for one destination
    server     carries out the client's commands, and reports
    thread     the server in a thread of the proxy (test: test_delivery_process.py)
    unsettled  what the server has not settled yet, and the search for a poison event
    watermark  logs once that the queue is nearly full (test: test_delivery.py)
"""
