"""`moesif-proxy forward`: from a Kafka topic to Moesif, with the sender of the proxy.

arguments  the command line, and the settings behind it (test: forward/test_main.py)
forwarder  consumes, sends, commits: one member of the consumer group (test: forward/test_forward.py)
listener   status, metrics and health (test: forward/test_forward.py)
main       the entry point: one forwarder, or several workers
offsets    how far each partition is done
records    a record of the topic as a chunk to send, or why it is none
workers    several forwarders as processes (test: forward/test_workers.py, forward/test_forward.py)
"""
