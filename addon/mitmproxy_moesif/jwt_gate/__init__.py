"""A gate for JSON Web Tokens, off by default: an addon of its own beside Moesif's, which captures what is refused.

addon      the hooks: refuse before the upstream is called, copy claims (test: test_jwt_gate.py)
keys       the keys that tokens are verified with
options    the gate's parameters as mitmproxy options (test: test_jwt_gate.py)
reference  the table of options as Markdown
settings   the gate's options in one table
tokens     whether a request may pass; pure
"""
