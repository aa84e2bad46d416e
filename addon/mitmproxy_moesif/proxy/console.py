"""What `moesif-proxy` logs to stderr: our own messages, and warnings and errors of everything else."""

from __future__ import annotations

import logging
import sys


def quiet_log() -> None:
    """Call once at the start of a process. mitmproxy's log line for each connection is then not even formatted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("moesif").setLevel(logging.INFO)
