"""mitmproxy's insides: all that relies on interfaces it does not promise, and the start that replaces its own.

`versions` pins what this was tested with; elsewhere everything here stays off, and says so.
"""
