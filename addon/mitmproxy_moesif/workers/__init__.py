"""`moesif-proxy --workers N`: several processes on one port, with one Admin API and common counts.

answering   the Admin API inside a worker; the supervisor sends it requests
control     the supervisor's view of a worker: starts it, sends orders, reads messages (test: workers/test_relay.py)
counts      the total counts of all workers, including those that died (test: workers/test_lives.py)
exchanges   merges the newest exchanges of all workers
listener    the admin listener of the supervisor (test: workers/test_admin.py)
main        the entry point of `moesif-proxy` (test: proxy/test_proxy.py)
messages    an Admin API request and its response, as JSON (test: workers/test_answering.py)
relay       the Admin API of all workers as one
supervisor  starts workers, restarts those that die, adds up their counts
worker      one proxy as a supervised process (test: workers/test_supervisor.py)
"""

from mitmproxy_moesif.speedups.unused import import_when_asked_for

import_when_asked_for()  # here, because everything that runs moesif-proxy imports this package before mitmproxy
