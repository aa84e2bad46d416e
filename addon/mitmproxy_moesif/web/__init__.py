"""Shared HTTP code: listeners (thread, JSON handler, access control) and the client's session.

access    who may use a listener: loopback, token, Host and Origin checks
bounded   an HTTP server with a limited number of connections
handlers  the base class of listeners' JSON handlers
loopback  the names of this machine's loopback (test: web/test_access.py)
server    an HTTP server in its own thread
session   an HTTP client whose calls end at a deadline
"""
