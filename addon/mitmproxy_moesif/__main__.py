"""`python -m mitmproxy_moesif` prints the path of the script for `mitmdump -s`; `run` starts everything locally."""

import sys

from mitmproxy_moesif.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
