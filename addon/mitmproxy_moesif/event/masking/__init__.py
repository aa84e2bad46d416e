"""Masks what the event shows: fields of a body by format, parameters of a query by name.

`BodyMask` holds the compiled names of one side. Each format's module finds the fields, and passes every remaining text
to `text_mask`, which passes it on to the module for its format. A body that cannot be parsed unambiguously raises
`UnmaskableError`: what cannot be masked must not be sent.

    body_mask       detects the format of a body and applies the masks of one side (test: event/test_masking.py)
    form_mask       URL-encoded forms (test: event/test_masking.py)
    json_mask       JSON members, cut out of the original text (test: event/test_masking.py)
    json_text       whether bytes are a JSON document (test: event/test_masking.py)
    media_types     media types and header parameters (test: event/test_masking.py)
    multipart_mask  multipart forms (test: event/test_masking.py)
    names           compares field names with the masked names, and finds these in text (test: event/test_masking.py)
    query_mask      parameters of URLs, also in headers
    text_mask       text of any format, and text inside text
    xml_mask        elements and attributes of XML (test: event/test_masking.py)
"""

from mitmproxy_moesif.event.masking.body_mask import BodyMask
from mitmproxy_moesif.event.masking.names import UnmaskableError
from mitmproxy_moesif.event.masking.query_mask import mask_host, mask_method, mask_query, mask_urls

__all__ = ["BodyMask", "UnmaskableError", "mask_host", "mask_method", "mask_query", "mask_urls"]
