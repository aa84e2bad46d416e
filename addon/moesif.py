"""What mitmproxy loads: mitmdump -s addon/moesif.py --mode reverse:http://kong:8000 --set moesif_application_id=..."""

from mitmproxy_moesif.addon import MoesifAddon
from mitmproxy_moesif.jwt_gate.addon import JwtGate

addons = [MoesifAddon(), JwtGate()]
