"""A gate for JSON Web Tokens, off by default: a separate addon next to Moesif's, which captures refused requests too.

addon      the hooks: refuse before the upstream is called, copy claims (test: test_jwt_gate.py)
keys       the keys for verifying tokens
options    the gate's parameters as mitmproxy options (test: test_jwt_gate.py)
reference  the table of options as Markdown
settings   the gate's options in one table
tokens     decides whether a request may pass; pure
"""
