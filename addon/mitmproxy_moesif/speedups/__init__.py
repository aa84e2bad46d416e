"""Everything that replaces mitmproxy's own code to make it faster, behind one version check.

On versions of mitmproxy that were not tested, all of it stays off, and the log says so.

    catalog    all replacements in one list (test: speedups/test_switch.py)
    dispatch   mitmproxy's hooks called through a prepared table
    inline     hooks run where a connection asks for them; small writes go out together
    replacing  puts a replacement in place and back (test: speedups/test_switch.py)
    savings    what mitmproxy does for every exchange and need not
    switch     `moesif_fast_dispatch`: on and off while the proxy runs
    versions   the tested versions of mitmproxy (test: speedups/test_switch.py)
"""
