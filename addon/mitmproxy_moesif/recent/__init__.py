"""What the proxy knows about the newest exchanges: for people who look, in memory only. Pure but for the store's lock.

api      what is told of an exchange, and of many: the JSON of the admin listener (test: admin/test_openapi.py)
asked    what can be asked of exchanges, wherever they are kept (test: recent/test_store.py)
masked   which masks removed what from an event
notes    exchanges without an event, and the steps of those with one (test: recent/test_store.py)
reader   the thread that looks through them for who asks (test: recent/test_store.py)
records  one exchange and what became of it: told when somebody asks (test: recent/test_store.py)
stats    many exchanges added up
store    the newest exchanges, within a number and a size
terms    the filter language: `status:5xx user:ada not company:acme`
"""
