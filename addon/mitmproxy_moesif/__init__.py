"""API analytics, discovery and governance for Kong and any HTTP API, as a mitmproxy addon."""

__version__ = "0.1.0"
