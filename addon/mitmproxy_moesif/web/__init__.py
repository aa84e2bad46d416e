"""HTTP that every room shares: listeners (thread, JSON handler, who may ask) and the client's session.

access    who may use a listener: loopback, token, Host and Origin checks
bounded   an HTTP server that keeps no more connections than it may
handlers  the JSON handler that listeners build on
loopback  the names of this machine's loopback (test: web/test_access.py)
server    an HTTP server in a thread of its own
session   an HTTP client whose calls end at a deadline
"""
