"""`make run`: a collector, a page of events and an echo upstream on this machine, to try the addon without an account.

akto       Akto's ingest service, including the records that its runtime would drop
collector  Moesif's collector API
documents  the configuration and rules that the collector serves
echo       an upstream that responds with the request
exchanges  the received events in the form that the traffic page requests
http       shared by the local servers (test: local/test_server.py)
intake     validates what the collector receives
main       `moesif-proxy collector`
page       the JSON paths that show what was received
profiles   users, companies and subscriptions
server     starts and stops all of these together
store      the events received, newest first
"""
