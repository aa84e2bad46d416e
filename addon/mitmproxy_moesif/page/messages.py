"""Request and response of an event, whoever made it: what may be relied on where they are shown or written.

Other SDKs leave out what our events have, and write names and bodies in other ways.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mitmproxy_moesif.recent.records import member

type Message = Mapping[str, Any]
"""With `headers`, by names in lower case; a `body` comes with its `transfer_encoding`, `json` or `base64`."""


def message(event: Mapping[str, Any], side: str) -> Message | None:
    """One side of an event; None where there is none."""
    found = member(event, dict, side)
    if found is None:
        return None
    headers = member(found, dict, "headers") or {}
    shown = {**found, "headers": {str(name).lower(): value for name, value in headers.items()}}
    if shown.get("body") is None and shown.get("transfer_encoding") != "json":
        shown.pop("body", None)
    elif not _is_base64(found):
        shown["transfer_encoding"] = "json"
    return shown


def _is_base64(found: Mapping[str, Any]) -> bool:
    if found.get("transfer_encoding") == "base64":
        with suppress(ValueError, TypeError):
            base64.b64decode(found["body"], validate=True)
            return True
    return False


def left_out(event: Mapping[str, Any], side: str) -> str | None:
    """Why a side has no body, where the event says so."""
    return member(event, str, "metadata", "body_omitted", side)
