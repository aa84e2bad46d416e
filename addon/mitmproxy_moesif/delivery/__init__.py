"""From a captured exchange to an event at its receiver, or on disk, or counted under a cause.

Runs in the delivery process beside the proxy, or in threads of the proxy (`moesif_background`).

    api        the interface that the proxy uses: `Delivery` (test: delivery/test_protocol_values.py)
    batch      events on their way to the receiver, and what became of each (test: delivery/spool/test_store.py)
    builder    the thread that builds events and stores them (test: test_delivery.py)
    client     the proxy's side of the delivery process (tests: delivery/test_process.py, test_delivery_process.py)
    keeper     starts the delivery process, and notices its end (test: test_delivery_process.py)
    ledger     the counts: captured = delivered + waiting + dropped
    pipeline   queue, builder, store and senders put together (test: test_delivery.py)
    process    the main program of the delivery process
    protocol   the messages between proxy and delivery process
    queue      the bounded queue that the event loop puts exchanges into (test: test_delivery.py)
    sender     the thread that sends what waits for one destination (test: test_delivery.py)
    unsettled  what the delivery process has not settled yet, and the search for a poison event
    watermark  logs once that the queue is nearly full (test: test_delivery.py)
"""
