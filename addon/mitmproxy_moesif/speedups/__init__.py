"""Everything that replaces mitmproxy's own code to make it faster, behind one version check.

On untested versions of mitmproxy, all of it stays off, and the log says so. Lazy imports (`unused`) replace nothing, so
they need no version check.

    catalog    the list of all replacements (test: speedups/test_switch.py)
    dispatch   calls mitmproxy's hooks through a prepared table
    inline     runs hooks inline instead of in tasks, and merges small writes
    replacing  installs and removes a replacement (test: speedups/test_switch.py)
    savings    avoids work that mitmproxy repeats for every exchange
    switch     `moesif_fast_dispatch`: turns the speedups on and off while the proxy runs
    unused     imports lazily what `moesif-proxy` does not use
    versions   the tested versions of mitmproxy (test: speedups/test_switch.py)
"""
