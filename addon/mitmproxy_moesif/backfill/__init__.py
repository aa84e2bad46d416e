"""`moesif-proxy backfill`: saved traffic, from mitmproxy's flow files and HAR, to where events go.

har       an entry of a HAR file as a flow
main      command line, and the way of a file to its end
progress  how far a file has been taken, on disk and for eyes
saved     the flows of a file, one after the other
work      flows to events, and their delivery (test: backfill/test_main.py)
"""
