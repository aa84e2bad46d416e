"""The soak: `python -m tests.soak` (or `make soak`), minutes of traffic with faults drawn from a seeded dice.

Collector, upstream and proxy are processes of their own, so that the memory that is judged is the proxy's alone.

    bodies              JSON of many sizes, with fields that must never leave the proxy
    collector, upstream what runs in processes of its own; children starts those and talks to them
    load                the clients: every answer that was read, by transaction id
    journal             what happened when, and what was found wrong
    lives               the proxy: starts, kills and ends, and what each life left in the spool
    audit               who has which event: asked at each end of a life, and last
    monitor             /status, memory and files of the running proxy
    faults              the decks that faults are drawn from, and how each is done
    judgement           what has to hold, as pure functions
    run                 all of it together
"""
