"""`moesif-proxy --workers N`: several processes on one port, one Admin API and one count for all.

answering   the Admin API inside a worker, asked by the supervisor
control     a worker as the supervisor sees it: starts it, orders it, hears it (test: workers/test_relay.py)
counts      the counts of all workers as one, whichever of them died
exchanges   the newest exchanges of all workers as those of one
listener    the admin listener of the supervisor (test: workers/test_admin.py)
main        the entry point of `moesif-proxy` (test: proxy/test_proxy.py)
messages    a request to the Admin API and its answer, as JSON (test: workers/test_answering.py)
relay       the Admin API of all workers as one
supervisor  starts workers, restarts those that die, adds up their counts
worker      one proxy as a process, alone or supervised (test: workers/test_supervisor.py)
"""

from mitmproxy_moesif.speedups.unused import import_when_asked_for

import_when_asked_for()  # here, since whatever runs moesif-proxy imports this room before mitmproxy
