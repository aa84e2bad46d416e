"""The traffic page in NiceGUI: a live list, one exchange in full beside it, and an overview.

The proxy filters and pages the list; a browser never has more than `PAGE` rows. `view` and `bodies` generate the
content for an exchange.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import httpx
from nicegui import app, ui
from nicegui.events import KeyEventArguments

from mitmproxy_moesif.page import bodies, forms, plots, view
from mitmproxy_moesif.page.admin import Admin, AdminError
from mitmproxy_moesif.page.columns import COLUMNS, FIT
from mitmproxy_moesif.page.messages import left_out, message
from mitmproxy_moesif.page.style import CSS
from mitmproxy_moesif.recent import terms
from mitmproxy_moesif.recent.api import Detail

PAGE: Final = 200
EXPORTED: Final = 1000
REFRESH: Final = 0.3
BUSY: Final = 50
"""With more new exchanges than this per refresh, too many to read, the next `RESTS` refreshes are skipped."""

RESTS: Final = 4
OVERVIEW_REFRESH: Final = 2.0
BAR_BUTTON: Final = "flat dense no-caps color=white"
SENT, CAPTURED = "as sent", "as captured"
NOT_COPIED: Final = "not copied: browsers allow it only over HTTPS, or on this machine"
COPY_SECONDS: Final = 5.0
KEYS: Final = {
    "j / k": "the next, the previous exchange",
    "Enter": "open the exchange",
    "Esc": "close it",
    "/": "type a filter",
    "?": "this help",
}


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a page: the proxy's admin listener. `proxy` is where requests are replayed; None disables that."""

    admin: Admin
    proxy: str | None


@dataclass(slots=True)
class Shown:
    """The state of one browser's view. `pages`: the values of `before` that led here. `changed`: the newest change.

    `kept`: the number of exchanges stored at that time.
    """

    wanted: str = ""
    pages: list[int] = field(default_factory=list)
    next: int | None = None
    changed: int = -1
    kept: int = 0
    ids: list[str] = field(default_factory=list)
    selected: str | None = None
    detail: Detail | None = None
    side: str = SENT
    following: bool = True


def problem_of(wanted: str) -> str | None:
    """The errors in a filter; None if it is valid."""
    try:
        terms.parse(wanted)
    except terms.FilterError as error:
        return str(error)
    return None


def sendable(text: str) -> str:
    """Replace lone surrogates, which JSON can have, but which cannot be sent to the browser."""
    return text.encode("utf-8", "replace").decode()


async def to_clipboard(text: str) -> bool:
    """Copy a text; returns whether the browser allowed it."""
    script = f"return navigator.clipboard?.writeText({json.dumps(text)}).then(() => true, () => false) ?? false"
    try:
        return bool(await ui.run_javascript(script, timeout=COPY_SECONDS))
    except TimeoutError:
        return False


def add_page(source: Source) -> None:
    """Add the page at `/`. Its URL contains the filter and the open exchange."""

    @ui.page("/", title="Traffic", dark=None)
    async def traffic(filter: str = "", id: str = "") -> None:  # noqa: A002 - the names in the URL
        page = TrafficPage(source, Shown(wanted=filter[: terms.MAX_LENGTH], selected=id or None))
        page.build()
        await page.refresh()
        await page.open(page.shown.selected)

    app.colors(primary="#4a6fa5")


class TrafficPage:
    """One browser's page."""

    def __init__(self, source: Source, shown: Shown) -> None:
        self._source = source
        self._admin = source.admin
        self._seen = self._rests = 0
        self.shown = shown

    # --- layout --------------------------------------------------------------------------------------------------

    def build(self) -> None:
        ui.add_css(CSS)
        self._dark = ui.dark_mode(None)
        with ui.header().classes("items-center q-py-xs bar"):
            self._build_bar()
        with ui.tab_panels(self._tabs, value="Traffic").classes("w-full panels"):
            with ui.tab_panel("Traffic").classes("q-pa-none"):
                self._build_traffic()
            with ui.tab_panel("Overview"):
                self._overview = ui.element("div").classes("overview w-full")
                self._charts: list[ui.echart] = []
        self._build_help()
        ui.keyboard(on_key=self._key)
        ui.timer(REFRESH, self._look)
        ui.timer(OVERVIEW_REFRESH, self.refresh_overview)

    def _build_bar(self) -> None:
        with ui.tabs().props("dense no-caps") as self._tabs:
            ui.tab("Traffic")
            ui.tab("Overview")
        self._filter = (
            ui.input(
                value=self.shown.wanted,
                placeholder="status:5xx user:ada method:post path:/orders not company:acme",
                validation=problem_of,
                on_change=self._filtered,
            )
            .props('dense outlined debounce=250 clearable aria-label="filter" input-class="filter"')
            .classes("grow filter-box")
        )
        self._filter.validate()  # automatic only for typed text, not for the URL's
        self._follow = ui.switch("follow", value=True, on_change=self._followed).props("color=light-green-4 dense")
        har = partial(self._export, "exchanges.har", lambda found: json.dumps(forms.har(found), ensure_ascii=False))
        ndjson = partial(self._export, "events.ndjson", forms.ndjson)
        self._bar_button("export as HAR, masked", har, "HAR", icon="download")
        self._bar_button("export events as NDJSON, masked", ndjson, "NDJSON", icon="download")
        self._bar_button("dark or light", lambda: self._dark.set_value(not self._dark.value), icon="dark_mode")
        self._bar_button("help", lambda: self._help.open(), icon="help")

    def _bar_button(self, does: str, act: Callable[[], Any], text: str = "", *, icon: str) -> None:
        ui.button(text, icon=icon, on_click=act).props(f'{BAR_BUTTON} aria-label="{does}"').tooltip(does)

    def _build_traffic(self) -> None:
        with ui.splitter(value=100, limits=(30, 100)).classes("w-full split") as self._split:
            with self._split.before:
                self._said = ui.label().classes("said")
                self._empty = ui.column().classes("empty")
                self._empty.set_visibility(False)
                with self._empty:
                    if (proxy := self._source.proxy) is None:
                        ui.label("No exchanges yet.")
                    else:
                        ui.label("No exchanges yet. Try:")
                        ui.code(f"curl -s {proxy}/hello -H 'X-Consumer-Username: ada'", language="bash")
                self._grid = ui.aggrid(
                    {
                        "columnDefs": COLUMNS,
                        "defaultColDef": {"resizable": True, "sortable": False, "suppressMovable": True},
                        "rowData": [],
                        "suppressNoRowsOverlay": True,
                        "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
                        ":getRowId": "params => params.data.id",
                        ":onGridSizeChanged": FIT,
                        "enableBrowserTooltips": True,
                        "headerHeight": 30,
                        "rowHeight": 26,
                    },
                    auto_size_columns=False,
                ).classes("grid")
                self._grid.on("cellClicked", lambda event: self.open(event.args["data"]["id"]))
                with ui.row().classes("items-center q-px-sm"):
                    ui.button("newer", on_click=lambda: self._look_again(self.shown.pages[:-1])).props(
                        "flat dense no-caps"
                    )
                    ui.button("older", on_click=self._older).props("flat dense no-caps")
                    ui.label().classes("hidden-columns")
            with self._split.after:
                self._panel = ui.element("div").classes("detail")

    def _build_help(self) -> None:
        with ui.dialog() as self._help, ui.card():
            for key, meaning in KEYS.items():
                ui.label(f"{key}: {meaning}")
            ui.separator()
            for name, (_, _, examples) in terms.FIELDS.items():
                ui.label(f"{name}: {examples}").classes("text-xs")
            ui.label(terms.COMBINED).classes("text-xs")

    # --- the list ------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Refresh by timer, except while another tab is open."""
        if self._rests > 0 or self._tabs.value != "Traffic":
            self._rests -= 1
        else:
            await self.refresh()

    async def refresh(self) -> None:
        """Reload the list if it has changed."""
        shown = self.shown
        if problem_of(shown.wanted) is not None or (shown.changed >= 0 and not shown.following):
            return
        try:
            if shown.changed >= 0 and not await self._has_changed():
                return
            before = shown.pages[-1] if shown.pages else None
            listing = await self._admin.newest(shown.wanted, PAGE, before)
        except AdminError as error:
            self._said.set_text(str(error))
            return
        came = listing["seen"] - self._seen if shown.changed >= 0 else 0
        self._seen = listing["seen"]
        self._rests = RESTS if came > BUSY else 0
        shown.changed, shown.next, shown.kept = listing["changed"], listing["next"], listing["kept"]
        rows = [view.list_row(row) for row in listing["exchanges"]]
        shown.ids = [row["id"] for row in rows]
        self._grid.run_grid_method("setGridOption", "rowData", rows)
        self._empty.set_visibility(listing["seen"] == 0)
        left_out = f"; {came - PAGE} came too fast to show" if came > PAGE else ""
        self._said.set_text(f"{len(rows)} shown, {listing['kept']} kept of {listing['seen']}{left_out}")
        await self._refresh_detail()

    async def _has_changed(self) -> bool:
        changed = await self._admin.newest(self.shown.wanted, 1, changed_after=self.shown.changed)
        return bool(changed["exchanges"]) or changed["kept"] < self.shown.kept

    async def _filtered(self) -> None:
        self.shown.wanted = self._filter.value or ""
        await self._look_again()

    async def _look_again(self, pages: list[int] | None = None) -> None:
        self.shown.pages, self.shown.changed = pages or [], -1
        self._keep_in_url()
        await self.refresh()

    async def _followed(self) -> None:
        self.shown.following = self._follow.value
        if self.shown.following:
            await self._look_again()

    async def _older(self) -> None:
        if self.shown.next is not None:
            await self._look_again([*self.shown.pages, self.shown.next])

    def _keep_in_url(self) -> None:
        given = {"filter": self.shown.wanted, "id": self.shown.selected or ""}
        query = urlencode({name: value for name, value in given.items() if value})
        ui.navigate.history.replace(f"/?{query}" if query else "/")

    # --- one exchange --------------------------------------------------------------------------------------------

    async def open(self, transaction_id: str | None) -> None:
        """Show it beside the list; None closes it."""
        shown = self.shown
        shown.selected, shown.detail = transaction_id, None
        if transaction_id is not None:
            try:
                shown.detail = await self._admin.find(transaction_id)
            except AdminError as error:
                ui.notify(f"{transaction_id}: {error}")
                shown.selected = None
        self._keep_in_url()
        self._split.set_value(55 if shown.detail is not None else 100)
        self._split.classes(add="opened") if shown.detail is not None else self._split.classes(remove="opened")
        if shown.selected is not None:
            self._grid.run_row_method(shown.selected, "setSelected", True)
        self._draw_detail()

    async def _refresh_detail(self) -> None:
        """Reload the open exchange, whose state may have changed."""
        shown = self.shown
        if shown.detail is None or shown.detail["state"] not in terms.WAITING:
            return
        try:
            detail = await self._admin.find(shown.detail["id"])
        except AdminError:
            return  # it is no longer stored; keep showing it
        if detail["changed"] != shown.detail["changed"]:
            shown.detail = detail
            self._draw_detail()

    def _draw_detail(self) -> None:
        self._panel.clear()
        detail = self.shown.detail
        if detail is None:
            return
        with self._panel:
            self._draw_head(detail)
            with ui.element("ul").classes("why"):
                for sentence in view.why(detail):
                    with ui.element("li"):
                        ui.label(sentence)
            self._draw_timing(detail)
            self._draw_life(detail)
            self._draw_sides(detail)

    def _draw_head(self, detail: Detail) -> None:
        with ui.row().classes("items-center no-wrap w-full"):
            ui.label(f"{detail['method']} {detail['path']} {detail['status'] or ''}").classes("title grow")
            ui.button(icon="close", on_click=lambda: self.open(None)).props('flat dense aria-label="close"')
        with ui.row().classes("items-center"):
            if detail["event"] is not None:
                self._copy("curl", lambda event: forms.curl(event))
                self._copy("HAR", lambda _: json.dumps(forms.har([detail]), indent=2))
                self._copy("JSON", lambda event: json.dumps(event, indent=2, ensure_ascii=False))
                if self._source.proxy is not None:
                    ui.button("replay", on_click=self._replay).props("dense no-caps outline")
            if detail["captured"] is not None:
                ui.toggle([SENT, CAPTURED], value=self.shown.side, on_change=self._turn).props("dense no-caps")

    def _copy(self, name: str, text: Callable[[Mapping[str, Any]], str]) -> None:
        async def copy() -> None:
            if (detail := self.shown.detail) is not None and detail["event"] is not None:
                copied = await to_clipboard(sendable(text(detail["event"])))
                ui.notify(f"copied as {name}" if copied else NOT_COPIED)

        ui.button(f"copy {name}", on_click=copy).props("dense no-caps outline")

    def _turn(self, event: Any) -> None:
        self.shown.side = event.value
        self._draw_detail()

    def _draw_timing(self, detail: Detail) -> None:
        with ui.element("div").classes("timing"):
            for index, share in enumerate(view.timing(detail)):
                with ui.element("div").classes(f"share-{index}").style(f"width: {share.percent}%"):
                    ui.label(f"{share.name} {share.ms} ms")

    def _draw_life(self, detail: Detail) -> None:
        with ui.expansion("life").props("dense").classes("w-full"):
            for step in detail["life"]:
                ui.label(f"{step['at'][11:23]} {step['step']} {step['detail']}").classes("step")

    def _draw_sides(self, detail: Detail) -> None:
        captured = self.shown.side == CAPTURED and detail["captured"] is not None
        event = detail["captured"] if captured else detail["event"]
        if event is None:
            ui.label("There is no event.").classes("note")
            return
        with ui.element("div").classes("sides"):
            for side in ("request", "response"):
                shown = message(event, side)
                with ui.element("div").classes("side"):
                    ui.label(side).classes("side-name")
                    if shown is None:
                        ui.label("there was none").classes("note")
                        continue
                    html = bodies.headers(shown["headers"], view.removed_from(detail, side, "headers"))
                    html += bodies.body(shown, left_out(event, side), view.removed_from(detail, side, "body"))
                    ui.html(sendable(html), sanitize=False)  # all texts are escaped

    async def _replay(self) -> None:
        """Send the request again through the proxy; only after a click."""
        detail, proxy = self.shown.detail, self._source.proxy
        if detail is None or proxy is None or (event := detail["captured"] or detail["event"]) is None:
            return
        request = message(event, "request") or forms.NOTHING
        headers = {name: value for name, value in request["headers"].items() if name not in forms.NOT_SENT}
        try:
            url = forms.replayed_at(proxy, event)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                answer = await client.request(detail["method"], url, headers=headers, content=forms.body_bytes(request))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            ui.notify(f"it cannot be sent: {type(error).__name__}")
        else:
            ui.notify(f"sent again: status {answer.status_code}")

    # --- export --------------------------------------------------------------------------------------------------

    async def _export(self, name: str, text: Callable[[list[Detail]], str]) -> None:
        try:
            details = await self._admin.all(self.shown.wanted, EXPORTED)
        except AdminError as error:
            ui.notify(str(error))
        else:
            ui.download.content(text(details).encode("utf-8", "replace"), name)

    # --- overview ------------------------------------------------------------------------------------------------

    async def refresh_overview(self) -> None:
        if self._tabs.value != "Overview" or problem_of(self.shown.wanted) is not None:
            return
        try:
            charts = plots.all_of(await self._admin.stats(self.shown.wanted))
        except AdminError as error:
            self._said.set_text(str(error))
            return
        if not self._charts:
            with self._overview:
                self._charts = [ui.echart(options).classes("chart") for options in charts]
        for chart, options in zip(self._charts, charts, strict=True):
            chart.options.clear()
            chart.options.update(options)
            chart.update()

    # --- keyboard ------------------------------------------------------------------------------------------------

    async def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        actions: Mapping[str, Callable[[], Awaitable[None] | None]] = {
            "j": lambda: self._step(1),
            "k": lambda: self._step(-1),
            "Enter": lambda: self._step(0),
            "Escape": lambda: self.open(None),
            "/": lambda: self._filter.run_method("focus"),
            "?": self._help.open,
        }
        if (action := actions.get(str(event.key))) is not None and (awaited := action()) is not None:
            await awaited

    async def _step(self, by: int) -> None:
        """Open the exchange this many rows further."""
        ids, selected = self.shown.ids, self.shown.selected
        if ids:
            at = ids.index(selected) + by if selected in ids else 0
            await self.open(ids[min(max(at, 0), len(ids) - 1)])
