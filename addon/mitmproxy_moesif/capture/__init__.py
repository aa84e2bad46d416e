"""Turns mitmproxy's flows into exchanges, and applies governance rules on the request path.

Nothing here blocks, parses or takes a lock.

    chunks       replaces h11's reader for chunked bodies: linear time, supports trailers
    connections  forgets a client's upstream connections that have ended
    delay        measures how late the event loop runs
    enforcement  rules that block, or add response headers (test: capture/test_enforcement.py, test_governance.py)
    engine       replaces classes of mitmproxy: refuses requests at the head, limits how much of a body is held
    failure      how an exchange failed, and the status that the client saw (test: test_phases.py)
    flow         what is done to a flow in each phase, and the snapshot at its end (test: test_phases.py)
    frames       skips empty frames of HTTP/2, and limits its table of headers
    heads        refuses ambiguous message heads
    in_flight    the exchanges in flight (test: test_phases.py)
    responses    responses of our own, in place of the upstream's
    skip         the filter for exchanges that are not captured
    tee          forwards a streamed body and keeps a copy up to a limit (test: capture/test_tee.py, test_streams.py)
    traffic      counts and times all traffic
    turns        limits how long a WebSocket or HTTP/2 connection keeps others waiting
    upgrades     WebSockets and other upgraded connections: messages are counted and discarded
    uploads      backpressure from the upstream to the uploads of an HTTP/2 client
    upstreams    detects and logs failing upstreams
    windows      backpressure from an HTTP/2 client to the upstream
"""
