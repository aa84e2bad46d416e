"""JSON bodies of 200 bytes to 100 kB, the same for the same seed, with fields that have to be masked."""

from __future__ import annotations

import json
import math
import random

# Found again wherever it leaks: in an event, in a log.
MASKED = "masked-value-5ecre7-do-not-show"

SMALLEST, LARGEST = 200, 99_000
POOL = 48

PLAIN = "/r/"
"""Followed by the number of the body that the upstream answers with."""
POISON = "/poison"
"""The collector refuses an event of this path with 400, whatever else is in its batch."""
OVERSIZE = "/oversize"
"""Its request's body makes an event that the collector always refuses with 413."""

BATCH_BYTES = 600_000
LARGEST_REQUEST = 700_000
"""Bytes of JSON that the collector takes in one request; what the proxy sends stays below, but for oversize events."""
OVERSIZE_BODY = 900_000
"""The proxy leaves the bodies out of an event of more than a million bytes."""


def body_pool(seed: int) -> list[bytes]:
    """`POOL` bodies, their sizes spread evenly over the orders of magnitude."""
    dice = random.Random(f"bodies {seed}")
    return [a_body(dice, _size(dice)) for _ in range(POOL)]


def a_body(dice: random.Random, size: int) -> bytes:
    """A JSON object of about so many bytes."""
    items: list[dict[str, object]] = []
    content = {"password": MASKED, "payment": {"card": MASKED, "currency": "EUR"}, "items": items}
    left = size - len(json.dumps(content))
    while left > 0:
        item = {"sku": f"{dice.getrandbits(32):08x}", "count": dice.randrange(9), "text": "lorem ipsum " * 6}
        left -= len(json.dumps(item)) + 2
        items.append(item)
    return json.dumps(content).encode()


def _size(dice: random.Random) -> int:
    return round(math.exp(dice.uniform(math.log(SMALLEST), math.log(LARGEST))))
