"""Moesif's rules and sampling rates, and rules of your own, ready for the request path.

Pure but for `refresh`, which fetches and watches in a thread.

    local_rules  the file of your own rules
    matching     which conditions hold for a request, in linear time
    model        Moesif's configuration and rules, validated and immutable
    refresh      fetches Moesif's configuration, watches the file, swaps the snapshot (test: test_governance.py)
    rules        whom a rule concerns, and the answer or headers that it gives
    sampler      which events are kept: the operator's rate, else the account's (test: test_governance.py)
    sampling     the rates of one configuration, and what the kept events weigh
    snapshot     configuration and rules at one moment, ready to decide requests
    template     merge tags `{{0}}` in a rule's headers and body
"""
