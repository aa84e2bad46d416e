"""From mitmproxy's flows to exchanges, and the rules' answers on the request path.

Nothing here waits, parses or takes a lock.

    chunks       in place of h11's reader of bodies in chunks: linear in time
    delay        how long that which is due waits for the event loop
    enforcement  rules: an answer in place of the upstream's, or headers on it (test: test_governance.py)
    engine       in place of mitmproxy's classes: refusals at the head, bodies held no further than rules read
    failure      how an exchange failed, and the status that the client saw (test: test_phases.py)
    flow         what is done to a flow in each phase, and the snapshot at its end (test: test_phases.py)
    heads        what can be read in more than one way is refused
    in_flight    the exchanges under way (test: test_phases.py)
    responses    answers in place of the upstream's
    skip         what is not captured
    tee          a streamed body: passed on, and kept up to a limit (test: capture/test_tee.py, test_streams.py)
    traffic      what passes, counted and timed
    upgrades     WebSockets and other upgraded connections: counted and let go
    upstreams    those that fail: what of, and lines in the log
    windows      an HTTP/2 client that does not read holds up its upstream
"""
