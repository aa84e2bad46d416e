"""Passes the JSON paths of `make run`'s collector on, at the page's own port."""

from __future__ import annotations

import httpx
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

SECONDS = 60.0
PASSED_ON = frozenset(("content-type", "cache-control", "x-content-type-options"))


class EventPaths:
    """Middleware for `/events`, and for `/` if HTML is not requested."""

    def __init__(self, collector: str) -> None:
        self._client = httpx.AsyncClient(base_url=collector, timeout=SECONDS, trust_env=False)

    async def __call__(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        path = request.url.path
        is_index = path == "/" and "text/html" not in request.headers.get("accept", "")
        if not (is_index or path == "/events" or path.startswith("/events/")):
            return await call_next(request)
        asked = self._client.build_request(request.method, request.url.path, params=request.url.query.encode())
        try:
            answer = await self._client.send(asked, stream=True)
        except httpx.HTTPError as error:
            return JSONResponse({"error": f"the collector does not answer ({type(error).__name__})"}, 502)
        headers = {name: value for name, value in answer.headers.items() if name in PASSED_ON}
        return StreamingResponse(answer.aiter_bytes(), answer.status_code, headers)
