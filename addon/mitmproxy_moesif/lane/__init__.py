"""The fast lane: plain HTTP/1 from socket to socket, with mitmproxy's flows and hooks and none of its layers.

`moesif-proxy` gives it the connections that it accepts, mitmproxy's own programs lend theirs.

Heads are read here, not by httptools: with a callback for every field that takes as long, and it neither tells where a
message ends among others, which a hand-over needs, nor takes an answer to HEAD, or a method that it does not know.

bodies       messages' bodies, piece by piece
client       a client's connection
destination  what a connection toward the upstream was opened to (test: lane/test_tls.py)
exchange     one request and its answer: a flow, its hooks, and what is sent (test: lane/test_same.py)
flows        mitmproxy's flows and messages, without the checks of their constructors
handover     a connection that goes on in mitmproxy's layers
heads        messages' heads, where everybody reads them alike
lent         connections of mitmproxy's handlers: before they are read, or behind a TLS handshake
lending      under mitmproxy's own programs: the connections that they accept, lent to the lane
opening      whether a new connection is the lane's, and what its connections share
serving      what the lane does not serve, with the reasons (test: lane/test_opening.py)
tls          TLS on either side, behind its handshake (test: lane/test_tls.py, lane/test_tls_writing.py)
upstream     connections toward the upstream, kept for the next exchange
writing      one end of a connection: writes that go out together (test: lane/test_limits.py)
"""
