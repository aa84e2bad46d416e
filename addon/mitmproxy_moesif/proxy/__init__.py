"""`moesif-proxy` in one process: the addon on a mitmproxy that carries only what a reverse proxy needs.

accepting      connections are taken while there is room (test: proxy/test_patience.py)
access_log     a line for each request
arguments      the command line
client_hello   a client's first message of TLS, bounded
configuration  options from command line and file, at the start and on SIGHUP
console        what is said on stderr (test: proxy/test_proxy.py)
drain          the end: in-flight requests finish, idle connections close
forwarded      `X-Forwarded-*` toward the upstream
hangups        SIGHUP, held back until somebody handles it (test: proxy/test_configuration.py)
heads          HTTP/1 heads that can be read in two ways are refused, line by line (test: test_one_reading.py)
http1          trailers, interim answers and framing that mitmproxy's HTTP/1 gets wrong
http2          answers that mitmproxy's HTTP/2 refuses, and resets of which it names the wrong side
listening      how the port is opened: shared, TCP alone (test: proxy/test_sockets.py)
loops          the event loop: uvloop's under the fast lane (test: lane/test_same.py)
master         `Proxy`: mitmproxy's core with our addons (test: proxy/test_proxy.py)
patience       time for a request's head and for idle connections
serve          runs one proxy in this process until it is told to end (test: proxy/test_proxy.py)
sockets        the listening sockets
tls            TLS toward clients, the files that TLS is made with, and its end by an alert
"""
