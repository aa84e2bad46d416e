"""From an exchange to the event that Moesif gets. Pure: no mitmproxy, no threads, no I/O.

address       the client's address: believed headers, else the peer
akto_record   an event as the record that Akto gets
attributes    what the headers say, read once for event, rules and sampling
bodies        what the event shows of a body
build         the event: its JSON object, masked
decoding      Content-Encoding undone, within a bound
exchange      `Exchange`, the plain snapshot that all of this reads (test: event/test_build.py)
grpc          how a gRPC call ended (test: event/test_build.py)
headers       header fields as text
identity      who called: user and company, from headers and tokens
json_reading  JSON strictly, with all members whose names repeat
kong_headers  what Kong's headers say: position, consumers, public URI
pipeline      `EventBuilder`: attributes, user hooks, sampling, build, encode (test: test_governance.py)
size          an event as bytes, no more than Moesif takes
trace         W3C trace context of a request (test: event/test_build.py)
"""
