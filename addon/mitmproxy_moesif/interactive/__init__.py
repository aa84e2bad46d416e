"""What mitmproxy's own interactive tools (mitmweb, mitmproxy) show of events, and their commands.

commands  `moesif.preview`, `why`, `send`, `export` and others (test: interactive/test_mitmweb.py)
marks     comments and marks of flows, kept up to date (test: interactive/test_mitmweb.py)
preview   the event of a flow, built here by the same code
view      the content view "Moesif event" (test: interactive/test_mitmweb.py)
"""
