"""The admin listener: status, metrics, health and Kong's Admin API, and the changes made there.

Handlers ask an `AdminSource`; `service.Operations` is the one of a running proxy.

    entities       Kong's entities as the Admin API shows them, and their schemas
    forms          bodies as Kong's Admin API takes them: JSON, and forms with dotted names
    exchanges      the newest exchanges: list, one, live stream, all added up
    handlers       the paths and what they answer
    handling       what the handlers share (test: admin/test_handlers.py)
    kong_plugins   the instances of Kong's configuration as plugin entities: show, change, add, remove
    listing        pages of a listing, filtered by tags
    local_plugins  the options as one global plugin entity
    metrics        the status as metrics for Prometheus
    openapi        our own paths as an OpenAPI document
    parameters     `Settings` as the `config` of an entity, and its changes (test: admin/test_local_plugins.py)
    redact         secrets in what goes out
    server         the listener: an HTTP server in a thread of its own
    service        what the listener asks of the running proxy: status, health, changes (test: test_admin.py)
    source         the interface between the two, and the errors of a change
    state          what was changed, as one document, and the file that keeps it
"""
