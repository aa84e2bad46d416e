"""Every setting: its type, bounds and default, and where its value comes from.

akto            the receiver Akto as configured
arguments       argument parsing shared by all commands
destination     names of accounts and of the queues of events
document        reads JSON and YAML into plain values with line numbers
fields          building blocks of a parameter table: types, properties, errors (test: test_options.py)
files           reads configuration files and remembers the content last applied (test: workers/test_files.py)
instance        one configured instance: its settings, and what is compiled from them (test: test_kong_config.py)
live            options changed while the proxy runs, from another thread (test: test_admin.py)
options         the parameter table as mitmproxy options and environment variables (test: test_options.py)
policy          the settings that shape an event, compiled once
proxy_defaults  mitmproxy's own options that a transparent proxy needs (test: test_transparency.py)
re2set          many untrusted regular expressions, compiled and searched in linear time
reference       the parameter table as Markdown (test: test_options.py)
settings        the parameter table: the pydantic model `Settings` (test: test_options.py)
text            helpers for messages, such as "did you mean" (test: test_options.py)
user_hooks      Python functions of the operator: `moesif_hooks` (test: test_governance.py)
watch           detects that a file has changed
"""
