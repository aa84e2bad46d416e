"""The newest exchanges and their state, for people to look at; in memory only. Pure except for the store's lock.

api      the JSON of one exchange and of many, for the admin listener (test: admin/test_openapi.py)
asked    queries for exchanges, wherever these are stored (test: recent/test_store.py)
masked   finds what each mask removed from an event
notes    exchanges without an event, and the steps of those with one (test: recent/test_store.py)
reader   the thread that answers queries (test: recent/test_store.py)
records  one exchange and its state, evaluated on demand (test: recent/test_store.py)
stats    statistics of many exchanges
store    the newest exchanges, limited in number and size
terms    the filter language: `status:5xx user:ada not company:acme`
"""
