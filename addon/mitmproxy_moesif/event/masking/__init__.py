"""Masking of what the event shows: fields of a body by format, parameters of a query by name.

`BodyMask` holds the names of one side compiled once. A body that cannot be read with certainty raises
`UnmaskableError`: what cannot be masked must not be sent.
"""

from mitmproxy_moesif.event.masking.body_mask import BodyMask
from mitmproxy_moesif.event.masking.names import UnmaskableError
from mitmproxy_moesif.event.masking.query_mask import mask_query

__all__ = ["BodyMask", "UnmaskableError", "mask_query"]
