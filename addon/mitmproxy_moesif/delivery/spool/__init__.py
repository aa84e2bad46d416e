"""Events on disk between building and sending: one SQLite file for each process.

A living process takes over the files of dead ones.

    chunk        a small group of encoded events: what is stored and sent (test: delivery/spool/test_file.py)
    decisions    what the operator decided about stored events
    directory    finds, checks and takes over what dead processes left
    file         the file of one process: append, load, remove, shrink
    format       the layout of the file and of a row (test: delivery/spool/test_file.py)
    lock         tells a living process's file from a dead one's
    maintenance  the thread that adopts files, moves events to disk, frees space (test: delivery/spool/test_store.py)
    queue        the events waiting for one destination, fresh and backlog (test: delivery/spool/test_store.py)
    recovery     reads the intact rows of a damaged file (test: delivery/spool/test_directory.py)
    set          the files that a store has open (test: delivery/spool/test_store.py)
    store        the events waiting to be sent, on disk or in memory; the senders lease from it
"""
