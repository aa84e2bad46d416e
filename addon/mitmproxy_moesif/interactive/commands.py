"""The commands of mitmproxy's interactive tools, and what they show: an addon nested in ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from mitmproxy import command, contentviews, exceptions, flow, http, types

from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.interactive.marks import Marks
from mitmproxy_moesif.interactive.preview import NoEventError, captured, record_of, shown
from mitmproxy_moesif.interactive.view import EventView
from mitmproxy_moesif.lifecycle import Lifecycle
from mitmproxy_moesif.page.view import why
from mitmproxy_moesif.recent.api import Detail, Step


class Interactive:
    """A nested addon of the addon whose `life` it is."""

    name = "moesif-interactive"

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._marks = Marks(life)

    def running(self) -> None:
        contentviews.add(EventView(self._life))
        self._marks.start()

    def done(self) -> None:
        self._marks.stop()

    @command.command("moesif.preview")  # type: ignore[untyped-decorator]
    def preview(self, flows: Sequence[flow.Flow]) -> str:
        """The events of these flows as they are sent, masked members marked."""
        return "\n".join(self._preview(each) for each in flows if isinstance(each, http.HTTPFlow))

    def _preview(self, flow: http.HTTPFlow) -> str:
        try:
            return shown(record_of(self._life, flow))
        except NoEventError as error:
            return f"{flow.request.pretty_url}: {error}"

    @command.command("moesif.why")  # type: ignore[untyped-decorator]
    def why(self, flow: flow.Flow) -> str:
        """Who it was and how that is known, what applied, what masks removed, and what became of the event."""
        if not isinstance(flow, http.HTTPFlow):
            raise exceptions.CommandError("there are events of HTTP exchanges only")
        try:
            detail: Detail = record_of(self._life, flow).detail()
        except NoEventError as error:
            raise exceptions.CommandError(str(error)) from None
        if (row := self._marks.rows.get(flow.id)) is not None:
            step = Step(at=row["time"], step=row["state"], detail=row["cause"] or "")
            detail = Detail(**{**detail, "state": row["state"], "cause": row["cause"], "life": [step]})
        return "\n".join(why(detail))

    @command.command("moesif.send")  # type: ignore[untyped-decorator]
    def send(self, flows: Sequence[flow.Flow]) -> str:
        """Send the events of these flows, once more where they were sent: Moesif keeps one of each id."""
        runtime = self._life.runtime
        if runtime is None:
            raise exceptions.CommandError("not running")
        taken = self._made(flows, captured)
        for instance, exchange in taken:
            runtime.delivery.put(instance, exchange)
        return f"{len(taken)} of {len(flows)} flows are on their way"

    @command.command("moesif.export")  # type: ignore[untyped-decorator]
    def export(self, flows: Sequence[flow.Flow], path: types.Path) -> str:
        """Write the events of these flows to a file, one a line, masked as they are sent."""
        events = [record.known.event or b"" for record in self._made(flows, record_of)]
        try:
            expanded(path).write_bytes(b"".join(event + b"\n" for event in events))
        except OSError as error:
            raise exceptions.CommandError(f"{path}: {error.strerror}") from None
        return f"{len(events)} of {len(flows)} flows: {path}"

    @command.command("moesif.flush")  # type: ignore[untyped-decorator]
    def flush(self) -> str:
        """Try to send now what waits, also where a receiver that was away is given a pause."""
        runtime = self._life.runtime
        if runtime is None:
            raise exceptions.CommandError("not running")
        runtime.delivery.hurry()
        return f"moesif: {runtime.delivery.reading().line()}"

    def _made[Made](self, flows: Sequence[flow.Flow], make: Callable[[Lifecycle, http.HTTPFlow], Made]) -> list[Made]:
        """Of the flows that have an event."""
        made = []
        for each in flows:
            if isinstance(each, http.HTTPFlow):
                with suppress(NoEventError):
                    made.append(make(self._life, each))
        return made
