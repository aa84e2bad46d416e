"""The gate's options as Markdown, for compose/OPTIONS.md: `python -m mitmproxy_moesif.jwt_gate.reference`."""

import sys

from mitmproxy_moesif.config.reference import markdown
from mitmproxy_moesif.jwt_gate.settings import GateSettings

if __name__ == "__main__":
    sys.stdout.write(markdown(GateSettings) + "\n")
