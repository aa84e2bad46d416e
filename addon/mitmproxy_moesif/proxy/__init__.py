"""`moesif-proxy` in one process: the addon on a mitmproxy with only what a reverse proxy needs.

accepting      accepts connections up to a limit (test: proxy/test_patience.py)
access_log     writes a line for each request
arguments      the command line
client_hello   limits the size of a client's TLS ClientHello
configuration  options from command line and file, at startup and on SIGHUP
console        logging to stderr (test: proxy/test_proxy.py)
drain          graceful shutdown: in-flight requests finish, idle connections are closed
forwarded      `X-Forwarded-*` headers for the upstream
hangups        SIGHUP, blocked until there is a handler (test: proxy/test_configuration.py)
heads          refuses ambiguous HTTP/1 heads, line by line (test: test_one_reading.py)
http1          fixes trailers, interim responses and framing in mitmproxy's HTTP/1
http2          fixes responses that mitmproxy's HTTP/2 refuses, and resets blamed on the wrong side
listening      opens the port: shared with other workers, TCP only (test: proxy/test_sockets.py)
loops          the event loop: uvloop with the fast lane (test: lane/test_same.py)
master         `Proxy`: mitmproxy's core with our addons (test: proxy/test_proxy.py)
patience       timeouts for request heads and idle connections
serve          runs one proxy in this process until it is stopped (test: proxy/test_proxy.py)
sockets        the listening sockets
tls            TLS to clients, the files used for TLS, and connections that end with a TLS alert
"""
