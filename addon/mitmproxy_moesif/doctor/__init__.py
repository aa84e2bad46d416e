"""`moesif-proxy doctor`: looks at everything that a start needs, and says what to do about what is wrong.

configuration  what the options, files and environment say, read as a start does (test: doctor/test_main.py)
findings       what a check found (test: doctor/test_main.py)
machine        proxies and authorities from the environment, ports, versions
main           command line and report
moesif         whether events are taken, whether Akto answers, and the clock
spool          the folder on disk, and what waits there
upstream       whether it is reached, is Kong, and trusts this proxy
"""
