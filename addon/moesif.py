"""What mitmproxy loads: mitmdump -s addon/moesif.py --mode reverse:http://kong:8000 --set moesif_application_id=..."""

import sys
from pathlib import Path

if sys.version_info < (3, 12):  # noqa: UP036 - whoever runs it from a clone has installed nothing
    sys.exit(f"moesif: Python 3.12 or later is needed; mitmproxy runs on {sys.version.split()[0]}")

try:
    from mitmproxy_moesif.script import script_addons
except ModuleNotFoundError as error:
    clone = Path(__file__).resolve().parent.parent
    sys.exit(f"moesif: the package {error.name} is missing: {sys.executable} -m pip install {clone}")

addons = script_addons()
