"""Request and response of an event from any SDK, in a reliable form for display and export.

Other SDKs leave out some fields of our events, and differ in the form of names and bodies.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mitmproxy_moesif.recent.records import member

type Message = Mapping[str, Any]
"""Has `headers` by lower-case name; if there is a `body`, also `transfer_encoding`, which is `json` or `base64`."""


def message(event: Mapping[str, Any], side: str) -> Message | None:
    """One side of an event; None if it is missing."""
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
    """The reason that an event gives for a missing body."""
    return member(event, str, "metadata", "body_omitted", side)
