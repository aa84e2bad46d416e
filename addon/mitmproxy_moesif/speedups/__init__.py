"""Everything that replaces mitmproxy's own code to make it faster, behind one version check.

On versions of mitmproxy that were not tested, all of it stays off, and the log says so. What is imported late replaces
nothing, and so needs no check.

    catalog    all replacements in one list (test: speedups/test_switch.py)
    dispatch   mitmproxy's hooks called through a prepared table
    inline     hooks run where a connection asks for them; small writes go out together
    replacing  puts a replacement in place and back (test: speedups/test_switch.py)
    savings    what mitmproxy does for every exchange and need not
    switch     `moesif_fast_dispatch`: on and off while the proxy runs
    unused     what mitmproxy imports and `moesif-proxy` has no use for
    versions   the tested versions of mitmproxy (test: speedups/test_switch.py)
"""
