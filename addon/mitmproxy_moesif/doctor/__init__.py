"""`moesif-proxy doctor`: checks everything that a start needs, and says how to fix problems.

configuration  reads options, files and environment as a start does (test: doctor/test_main.py)
findings       the results of checks (test: doctor/test_main.py)
machine        proxies and authorities from the environment, ports, versions
main           command line and report
moesif         whether events are accepted, whether Akto answers, and the clock
spool          the folder on disk, and the events in it
upstream       whether it is reachable, is Kong, and trusts this proxy
"""
