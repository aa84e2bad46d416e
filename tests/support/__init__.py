"""The test harness: a scripted collector and upstreams, the real mitmdump, and clients that see every byte.

All of it is on loopback, on free ports, in threads and processes that end with the test. The collector, the upstreams
and the clients import nothing of the package under test: what the tests compare with has to be independent of it.
"""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ADDON_SCRIPT = REPOSITORY / "addon" / "moesif.py"

# A value that is found again wherever it leaks.
APPLICATION_ID = "app-id-5ecre7-do-not-show"


def conformance_file(name: str) -> Path:
    """A file of conformance data: in the folder that MOESIF_CONFORMANCE names, else in tests/data."""
    folder = os.environ.get("MOESIF_CONFORMANCE")
    return (Path(folder) if folder else REPOSITORY / "tests" / "data") / name
