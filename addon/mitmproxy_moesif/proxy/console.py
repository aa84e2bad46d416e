"""What `moesif-proxy` says on stderr: our own lines, and warnings and errors of anything else."""

from __future__ import annotations

import logging
import sys


def quiet_log() -> None:
    """To be called once, at the start of a process. mitmproxy's line for every connection is not even made then."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("moesif").setLevel(logging.INFO)
