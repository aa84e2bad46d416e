"""The fast lane: serves plain HTTP/1 with mitmproxy's flows and hooks, but bypasses its protocol layers.

`moesif-proxy` gives the lane the connections that it accepts; mitmproxy's own programs lend theirs.

Heads are parsed here and not by httptools. Its callback for every field makes it no faster, it does not report where a
message ends (which a handover needs), and it cannot parse responses to HEAD or unknown methods.

bodies       reads message bodies piece by piece
client       a client's connection
destination  the destination of an upstream connection (test: lane/test_tls.py)
exchange     one request and its response: the flow, its hooks, and what is sent (test: lane/test_same.py)
flows        creates mitmproxy's flows and messages without the checks of their constructors
handover     hands a connection over to mitmproxy's layers
heads        parses and writes unambiguous message heads
lent         connections lent by mitmproxy's handlers: before anything is read, or after the TLS handshake
lending      lends the connections of mitmproxy's own programs to the lane
opening      decides whether the lane takes a new connection; state shared by its connections
serving      what the lane does not serve, and why (test: lane/test_opening.py)
tls          TLS to clients and upstreams after the handshake (test: lane/test_tls.py, lane/test_tls_writing.py)
upstream     upstream connections and their pool
writing      one end of a connection: batches writes (test: lane/test_limits.py)
"""
