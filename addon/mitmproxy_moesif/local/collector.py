"""A collector on this machine with Moesif's collector API, so that the addon works without an account.

    POST /v1/events         one event                       201, 400, 401, 413, 415
    POST /v1/events/batch   a JSON array of events          the same
    POST /v1/users          the profile of one user         201, 400, 401, 413, 415
    POST /v1/users/batch    of several; the same for companies and subscriptions
    GET  /v1/config         sampling and who has which rule 200, 304
    GET  /v1/rules          governance rules                200, 304
    PUT  /v1/config         replaces the configuration      204, 400    this collector only
    PUT  /v1/rules          replaces the rules              204, 400    this collector only

As in Moesif, a profile is merged into the one already known.

Every request needs `X-Moesif-Application-Id`, with any value; it is not stored. A POST's body may have Content-Encoding
deflate or gzip. A batch is accepted or refused as a whole. Responses to POSTs and to both GETs have the headers
`X-Moesif-Config-Etag` and `X-Moesif-Rules-Tag`, which equal the ETags of the two documents. The two PUTs are for trying
sampling and governance here; for Moesif itself its web application is used. `akto` adds the paths of Akto's ingest
service, which need no application id.
"""

from __future__ import annotations

from collections.abc import Mapping

from tornado.web import Application

from mitmproxy_moesif.local.akto import AktoCounts, HealthHandler, IngestHandler
from mitmproxy_moesif.local.documents import Document
from mitmproxy_moesif.local.http import LocalHandler, NotFoundHandler, log_request
from mitmproxy_moesif.local.intake import RefusedError, read_batch, read_one_or_many, read_profiles
from mitmproxy_moesif.local.profiles import KINDS, ProfileStore
from mitmproxy_moesif.local.store import EventStore

EVENTS = "events"

# Above the limit of a batch, so that too large a batch gets a response instead of a closed connection.
MAX_REQUEST_BYTES = 64 * 2**20


class _CollectorHandler(LocalHandler):
    def initialize(self, store: EventStore, profiles: ProfileStore, documents: Mapping[str, Document]) -> None:
        self.store = store
        self.profiles = profiles
        self.documents = documents

    def prepare(self) -> None:
        super().prepare()
        if not self._finished and not self.request.headers.get("X-Moesif-Application-Id"):
            self.refuse(401, "X-Moesif-Application-Id is required")

    def set_tags(self) -> None:
        self.set_header("X-Moesif-Config-Etag", self.documents["config"].current().tag)
        self.set_header("X-Moesif-Rules-Tag", self.documents["rules"].current().tag)


class _IntakeHandler(_CollectorHandler):
    """`POST`: everything in it is stored, or it is refused as a whole."""

    def post(self, kind: str, batch: str | None) -> None:
        self.set_tags()
        body, encoding = self.request.body, self.request.headers.get("Content-Encoding", "")
        try:
            if kind == EVENTS:
                self.store.add((read_one_or_many if batch is None else read_batch)(body, encoding))
            else:
                self.profiles.add(kind, read_profiles(body, encoding, KINDS[kind], many=batch is not None))
        except RefusedError as refused:
            self.refuse(refused.status, refused.reason)
        else:
            self.set_status(201)


class _DocumentHandler(_CollectorHandler):
    """`GET` and `PUT` of one of the two documents."""

    def get(self, name: str) -> None:
        version = self.documents[name].current()
        self.set_tags()
        self.set_header("ETag", version.tag)
        self.set_header("Content-Type", "application/json")
        if self.check_etag_header():
            self.set_status(304)
        else:
            self.write(version.content)

    def put(self, name: str) -> None:
        try:
            self.documents[name].put(self.request.body)
        except ValueError as error:
            self.refuse(400, str(error))
        else:
            self.set_tags()
            self.set_status(204)


def collector_app(
    store: EventStore, profiles: ProfileStore, config: Document, rules: Document, *, loopback_only: bool
) -> Application:
    """The collector as a Tornado application; serve it with `max_body_size=MAX_REQUEST_BYTES`."""
    parts = {"store": store, "profiles": profiles, "documents": {"config": config, "rules": rules}}
    return Application(
        [
            (rf"/v1/({'|'.join((EVENTS, *KINDS))})(/batch)?", _IntakeHandler, parts),
            (r"/v1/(config|rules)", _DocumentHandler, parts),
            (r"/api/ingestData", IngestHandler, {"counts": AktoCounts()}),
            (r"/healthCheck", HealthHandler),
        ],
        default_handler_class=NotFoundHandler,
        log_function=log_request,
        loopback_only=loopback_only,
    )
