"""Delivery in a process of its own: the proxy's interpreter takes references and hands them over, nothing more.

`courier` is the proxy's side, `helper` the process; `channel` carries what both say, in the forms of `wire`.
"""
