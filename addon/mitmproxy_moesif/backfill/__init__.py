"""`moesif-proxy backfill`: sends saved traffic from mitmproxy's flow files and HAR to where events go.

har       converts an entry of a HAR file to a flow
main      the command line, and the processing of each file
progress  progress in a file, on disk and on the terminal
saved     reads the flows of a file one by one
work      turns flows into events and delivers them (test: backfill/test_main.py)
"""
