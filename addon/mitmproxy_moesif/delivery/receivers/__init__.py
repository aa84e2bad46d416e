"""Where batches go.

A receiver has `send` and `close`; `pipeline.receiver_for` chooses one from the settings.

    akto        Akto's ingest service over HTTP
    akto_kafka  Akto's records to a Kafka topic
    base        the interface: `Receiver`, `Outcome`, `Verdict` (test: test_delivery.py)
    http        POSTs with one deadline each (test: test_delivery.py)
    kafka       a Kafka topic, a message for each event
    moesif      Moesif's collector over HTTP, with one deadline per call (test: test_delivery.py)
    ndjson      a file with one event a line (test: delivery/receivers/test_ndjson.py)
    said        what a collector says of why it refuses, without anything of what was sent
"""
