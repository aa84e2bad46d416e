"""The traffic page: what a running proxy knows of its exchanges, in a browser. Needs the extra `page` (NiceGUI).

It asks the admin listener, and shows what that answers; of the proxy's own parts it knows none.

    admin     asks the admin listener
    app       the page itself, in NiceGUI (test: page/test_browser.py)
    bodies    headers and bodies as HTML, everything escaped
    columns   the list's columns, and which there is room for (test: page/test_browser.py)
    forms     an exchange as curl, HAR and NDJSON
    gate      who may open it: this machine alone (test: page/test_browser.py)
    main      `moesif-proxy page` (test: page/test_browser.py)
    messages  request and response of an event, whoever made it
    passing   the JSON paths of the collector at the same port (test: page/test_browser.py)
    plots     the charts of the overview (test: page/test_view.py)
    style     its CSS (test: page/test_browser.py)
    view      what is told of an exchange in words
"""
