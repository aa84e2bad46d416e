"""A client for the admin listener of a running proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import httpx

from mitmproxy_moesif.recent.api import Detail, Listing, Stats
from mitmproxy_moesif.recent.masked import exact
from mitmproxy_moesif.web.access import octets_of

SECONDS = 10.0
AT_ONCE = 8

NOTHING_GIVEN = "the proxy's Admin API requires a token: set MOESIF_ADMIN_TOKEN"
NOT_TAKEN = "the proxy's Admin API does not accept the token in MOESIF_ADMIN_TOKEN: use its admin_token"


class AdminError(Exception):
    """A request to the admin listener failed; the text is one line."""


class Admin:
    """Methods raise `AdminError` if the listener does not answer, or refuses."""

    def __init__(self, url: str, token: str | None) -> None:
        octets = octets_of(token or "")
        headers = {b"Authorization": b"Bearer " + octets} if octets else {}
        self.url = url
        self._refusals = {401: NOT_TAKEN if token else NOTHING_GIVEN}
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    async def newest(
        self, wanted: str, limit: int, before: int | None = None, changed_after: int | None = None
    ) -> Listing:
        given = {"limit": limit, "before": before, "changed_after": changed_after}
        query = {name: str(value) for name, value in given.items() if value is not None}
        return cast(Listing, await self._get("/exchanges", "exchanges", {"filter": wanted, **query}))

    async def trouble(self) -> str | None:
        """Why nothing can be shown now; None if all is well."""
        try:
            await self.newest("", 1)
        except AdminError as error:
            return str(error)
        return None

    async def find(self, transaction_id: str) -> Detail:
        return cast(Detail, await self._get(f"/exchanges/{encoded(transaction_id)}", "life", {}))

    async def stats(self, wanted: str) -> Stats:
        return cast(Stats, await self._get("/stats", "over_time", {"filter": wanted}))

    async def all(self, wanted: str, limit: int) -> list[Detail]:
        """The newest exchanges in full; any that are dropped in the meantime are left out."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(transaction_id: str) -> Detail | None:
            async with room:
                try:
                    return await self.find(transaction_id)
                except AdminError:
                    return None

        listing = await self.newest(wanted, limit)
        found = await asyncio.gather(*(one(row["id"]) for row in listing["exchanges"]))
        return [detail for detail in found if detail is not None]

    async def _get(self, path: str, member: str, query: Mapping[str, str]) -> Any:
        """GET a JSON object that must have this member."""
        try:
            answer = await self._client.get(path, params=query)
        except httpx.HTTPError as error:
            raise AdminError(f"the proxy does not answer at {self.url} ({_how(error)})") from None
        content = None
        with suppress(ValueError):
            content = exact(answer.text)  # bodies may have numbers of any length
        if answer.status_code == 200 and isinstance(content, dict) and member in content:
            return content
        message = content.get("message") if isinstance(content, dict) else None
        nobody = f"{self.url} is not an admin listener of mitmproxy-moesif (status {answer.status_code})"
        raise AdminError(self._refusals.get(answer.status_code) or message or nobody)


def encoded(name: str) -> str:
    """A path segment that cannot be another path of the listener (`stream`) or a parent (`..`)."""
    return "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "replace"))


def _how(error: httpx.HTTPError) -> str:
    match error:
        case httpx.ConnectError():
            return "cannot connect: is this its admin_listen?"
        case httpx.TimeoutException():
            return f"no response within {SECONDS:g} s"
        case _:
            return "the response is not HTTP, or ends too early"
