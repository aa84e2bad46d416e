"""Moesif's rules and sampling rates, and local rules, ready for the request path.

Without side effects, except `refresh`, which fetches and watches in a thread.

    local_rules  reads the file of local rules
    matching     finds the conditions that hold for a request, in linear time
    model        Moesif's configuration and rules, validated and immutable
    refresh      fetches Moesif's configuration, watches the file, swaps the snapshot (test: test_governance.py)
    rules        decides which requests a rule is for, and its response or headers
    sampler      samples events at the operator's rate, else the account's (test: test_governance.py)
    sampling     the rates of one configuration, and the weights of the kept events
    snapshot     configuration and rules at one moment, ready to decide requests
    template     merge tags `{{0}}` in a rule's headers and body
"""
