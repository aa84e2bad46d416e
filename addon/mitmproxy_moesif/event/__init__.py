"""Turns an exchange into the event for Moesif. Pure: no mitmproxy, no threads, no I/O.

address       the client's address: from trusted headers, else the peer
akto_record   an event converted to Akto's record
attributes    facts from the headers, read once for event, rules and sampling
bodies        the body as the event shows it
build         the event: its JSON object, masked
decoding      decodes Content-Encoding, with a size limit
exchange      `Exchange`, the plain snapshot that the other modules read (test: event/test_build.py)
grpc          how a gRPC call ended (test: event/test_build.py)
headers       header fields as text
identity      the caller: user and company, from headers and tokens
json_reading  strict JSON, with all members of duplicate names
kong_headers  facts from Kong's headers: position, consumers, public URI
pipeline      `EventBuilder`: attributes, user hooks, sampling, build, encode (test: test_governance.py)
size          encodes an event within Moesif's size limit
trace         W3C trace context of a request (test: event/test_build.py)
"""
