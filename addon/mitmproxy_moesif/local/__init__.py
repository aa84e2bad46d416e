"""`make run`: a collector, a page of events and an echo upstream on this machine, to try the addon without an account.

akto       Akto's ingest service, and what its runtime would forget
collector  Moesif's collector API
documents  the configuration and rules that the collector hands out
echo       an upstream that answers with what it was asked
exchanges  what was received, as the traffic page asks for it
http       what the local servers share (test: local/test_server.py)
intake     what the collector takes and refuses
main       `moesif-proxy collector`
page       the page that shows what was received
profiles   users, companies and subscriptions that were told of
server     all of it, started and ended together
store      the events received, newest first
"""
