"""`moesif-proxy forward`: sends events from a Kafka topic to Moesif, with the proxy's sender.

arguments  the command line and its settings (test: forward/test_main.py)
forwarder  consumes, sends, commits: one member of the consumer group (test: forward/test_forward.py)
listener   status, metrics and health (test: forward/test_forward.py)
main       the entry point: one forwarder, or several workers
offsets    tracks which offsets of each partition may be committed
records    converts a record of the topic to a chunk, or rejects it
workers    several forwarders as processes (test: forward/test_workers.py, forward/test_forward.py)
"""
