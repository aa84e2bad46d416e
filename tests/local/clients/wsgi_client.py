"""An application with Moesif's middleware: `python wsgi_client.py COLLECTOR`; a GET, and what it tells of callers."""

from __future__ import annotations

import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

from moesifwsgi import MoesifMiddleware


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"made": "by wsgi"}']


def main(collector: str) -> None:
    settings = {
        "APPLICATION_ID": "any",
        "BASE_URI": collector,
        "EVENT_BATCH_TIMEOUT": 0.2,
        "IDENTIFY_USER": lambda app, environ, headers: "ada",
    }
    middleware = MoesifMiddleware(application, settings)
    environ: dict[str, Any] = {"PATH_INFO": "/orders", "REMOTE_ADDR": "127.0.0.1"}
    setup_testing_defaults(environ)
    list(middleware(environ, lambda *_: None))
    middleware.update_user({"user_id": "ada", "metadata": {"plan": "gold"}})
    middleware.update_users_batch([{"user_id": "bob"}, {"user_id": "cy"}])
    middleware.update_company({"company_id": "acme"})
    middleware.update_companies_batch([{"company_id": "ajax"}])


if __name__ == "__main__":
    main(sys.argv[1])
