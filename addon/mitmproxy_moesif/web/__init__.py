"""HTTP that every room shares: who may use a listener, and the client's session.

access    who may use a listener: loopback, token, Host and Origin checks
loopback  the names of this machine's loopback (test: web/test_access.py)
session   an HTTP client whose calls end at a deadline
"""
