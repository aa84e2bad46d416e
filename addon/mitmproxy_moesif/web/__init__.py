"""What every listener of ours shares.

access    who may use a listener: loopback, token, Host and Origin checks
loopback  the names of this machine's loopback (test: web/test_access.py)
"""
