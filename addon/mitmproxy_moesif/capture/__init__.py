"""From mitmproxy's flows to exchanges, and the rules' answers on the request path.

Nothing here waits, parses or takes a lock.

    enforcement  rules: an answer in place of the upstream's, or headers on it (test: test_governance.py)
    flow         body tee, exchanges in flight, the snapshot at the end (tests: test_phases.py, test_streams.py)
"""
