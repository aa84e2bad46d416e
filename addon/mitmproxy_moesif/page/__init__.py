"""The traffic page: a running proxy's exchanges in a browser. Needs the extra `page` (NiceGUI).

It requests everything from the admin listener, and uses nothing else of the proxy.

    admin     a client for the admin listener
    app       the page itself, in NiceGUI (test: page/test_browser.py)
    bodies    headers and bodies as HTML, with everything escaped
    columns   the list's columns, and those that fit (test: page/test_browser.py)
    forms     an exchange as curl, HAR and NDJSON
    gate      access control: this machine only (test: page/test_browser.py)
    main      `moesif-proxy page` (test: page/test_browser.py)
    messages  request and response of an event from any SDK
    passing   passes the collector's JSON paths on, at the same port (test: page/test_browser.py)
    plots     the charts of the overview (test: page/test_view.py)
    style     the page's CSS (test: page/test_browser.py)
    view      an exchange described in words
"""
