"""The receivers of batches.

A receiver has `send` and `close`; `pipeline.receiver_for` creates one from the settings.

    akto        Akto's ingest service over HTTP
    akto_kafka  a Kafka topic that Akto reads
    base        the interface: `Receiver`, `Outcome`, `Verdict` (test: test_delivery.py)
    http        POST requests, each with one deadline (test: test_delivery.py)
    kafka       a Kafka topic, one message for each event
    moesif      Moesif's collector over HTTP, with one deadline per call (test: test_delivery.py)
    ndjson      a file with one event per line (test: delivery/receivers/test_ndjson.py)
    said        a collector's reason for refusing a batch, without any of the data that was sent
"""
