"""The admin listener: status, metrics, health and Kong's Admin API, including changes.

Handlers use an `AdminSource`; `service.Operations` implements it for a running proxy.

    entities       Kong's entities as the Admin API shows them, and their schemas
    forms          request bodies of Kong's Admin API: JSON, and forms with dotted names
    exchanges      the newest exchanges: list, detail, live stream, statistics
    handlers       the paths and their responses
    handling       shared by the handlers (test: admin/test_handlers.py)
    kong_plugins   the instances of Kong's configuration as plugin entities: show, change, add, remove
    listing        pages of a listing, filtered by tags
    local_plugins  the options as one global plugin entity
    metrics        the status as metrics for Prometheus
    openapi        our own paths as an OpenAPI document
    parameters     `Settings` as the `config` of an entity, and its changes (test: admin/test_local_plugins.py)
    redact         redacts secrets in responses
    server         the listener: an HTTP server in its own thread
    service        the running proxy's status, health and changes (test: test_admin.py)
    source         the interface between listener and proxy, and the errors of a change
    state          all changes as one document, and the file that stores it
"""
