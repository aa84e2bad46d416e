"""HTTP/1 heads that everybody reads alike, read in a few passes over all of their lines at once.

Whatever is not plainly one of those is left to mitmproxy's own reader, or to its layers: so the same is refused in the
same words, and there are no two ideas of what a head says.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.net.http.validate import validate_headers

from mitmproxy_moesif.capture.heads import MOST_DIGITS, TEXT, TOKEN, VISIBLE, ambiguity, plain_field
from mitmproxy_moesif.event.exchange import Fields
from mitmproxy_moesif.lane.bodies import Body, Chunked, Fixed, UntilClose
from mitmproxy_moesif.lane.flows import new_request, new_response

BLANK_LINE = re.compile(rb"\n\r?\n")
VERSIONS = frozenset({b"HTTP/1.1", b"HTTP/1.0"})
OTHER_VERSIONS = frozenset({b"HTTP/2.0", b"HTTP/3"})

LENGTHS = frozenset(
    map(len, (b"authorization", b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade"))
)
"""Of the names that say how a message ends and what follows; all others are passed over."""

BINDING = (b"ntlm", b"negotiate")
"""Schemes that authenticate a connection, and with it whatever else comes on it."""

MOST_KNOWN = 1024
LONGEST_KNOWN = 256

PREFACE = b"PRI * HTTP/2.0"


class KnownLines(dict[bytes, tuple[bytes, bytes]]):
    """Fields by their lines. Most lines of a head have come before, so each is parsed once.

    Raises `ValueError` for a line that is not plain. At most `MOST_KNOWN` are held, none over
    `LONGEST_KNOWN` bytes.
    """

    def __missing__(self, line: bytes) -> tuple[bytes, bytes]:
        field = plain_field(line)
        if field[1].translate(None, TEXT):
            raise ValueError("a line that is not plain")
        if len(line) <= LONGEST_KNOWN:
            if len(self) >= MOST_KNOWN:
                self.clear()
            self[line] = field
        return field


known_lines = KnownLines()


def plain_fields(lines: list[bytes]) -> Fields | None:
    """The fields of a head's lines; None where not all of them are plain."""
    known = known_lines
    try:
        return tuple([known[line] for line in lines])
    except ValueError:
        return None


class Framing:
    """What the fields say of a message's end; of a field that is there more than once, nothing is plain.

    The class holds what is true where no field says otherwise.
    """

    length: bytes | None = None
    coding: bytes | None = None
    connection: bytes | None = None
    expect: bytes | None = None
    upgrade: bytes | None = None
    authenticates_connection: bool = False

    def __init__(self, *, is_plain: bool = True) -> None:
        self.is_plain = is_plain

    def closes(self, version: bytes) -> bool:
        """Whether the connection ends with this message.

        As `mitmproxy.net.http.http1.connection_close` has it, but "close" in any case.
        """
        if self.connection is None:
            return version != b"HTTP/1.1"
        return closes(self.connection, version)

    @property
    def has_body(self) -> bool:
        """Of a request, whether there is one."""
        return self.coding is not None or (self.length is not None and self.length != b"0")

    @property
    def is_chunked(self) -> bool:
        return self.coding is not None and b"chunked" in self.coding.lower()

    def announces(self, size: int) -> bool:
        """Whether a body of so many bytes is what it says, to everybody."""
        if self.is_chunked:
            return self.length is None
        return (self.length or b"").lstrip(b"0") == (b"%d" % size).lstrip(b"0")

    @property
    def ends_with_connection(self) -> bool:
        """Of an answer, whether its body is what comes until the connection ends."""
        return not self.is_chunked and (self.coding is not None or self.length is None)


@lru_cache(maxsize=64)
def closes(connection: bytes, version: bytes) -> bool:
    tokens = [token.strip() for token in connection.split(b",")]
    if b"close" in [token.lower() for token in tokens]:
        return True
    return b"keep-alive" not in tokens and version != b"HTTP/1.1"


def framing(fields: Fields) -> Framing:
    found = Framing()
    for name, value in [field for field in fields if len(field[0]) in LENGTHS]:
        key = name.lower()
        if key == b"content-length":
            found.is_plain = found.is_plain and found.length is None
            found.length = value if found.length is None else found.length + b", " + value
        elif key == b"transfer-encoding":
            found.is_plain = found.is_plain and found.coding is None
            found.coding = value if found.coding is None else found.coding + b", " + value
        elif key == b"connection":
            found.connection = value if found.connection is None else found.connection + b", " + value
        elif key == b"expect":
            found.expect = value
        elif key == b"upgrade":
            found.upgrade = value
        elif key == b"authorization" and value.lower().startswith(BINDING):
            found.authenticates_connection = True
    if found.length is not None:
        found.is_plain = found.is_plain and found.coding is None and is_plain_length(found.length)
    elif found.coding is not None:
        found.is_plain = found.is_plain and found.coding.lower() == b"chunked"
    return found


def is_plain_length(value: bytes) -> bool:
    return value.isdigit() and len(value) <= MOST_DIGITS and (value[:1] != b"0" or len(value) == 1)


def request_of(
    head: bytes, host: str, port: int, begun: float, scheme: bytes = b"http"
) -> tuple[http.Request, Framing] | None:
    """A request for this upstream whose target is a path; None where the head is anything else.

    `head` is without the blank line at its end.
    """
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3:
        return None
    method, target, version = words
    is_known = target[:1] == b"/" and version in VERSIONS and method and method.upper() != b"CONNECT"
    if not is_known or target.translate(None, VISIBLE) or method.translate(None, TOKEN):
        return None
    if (fields := plain_fields(lines[1:])) is None:
        return None
    found = framing(fields)
    if not found.is_plain or found.upgrade is not None or found.expect is not None or found.authenticates_connection:
        return None
    if found.coding is not None and version != b"HTTP/1.1":
        return None
    return new_request(host, port, method, target, version, fields, begun, scheme), found


def request_body(found: Framing) -> Chunked | Fixed:
    if found.coding is not None:
        return Chunked()
    return Fixed(int(found.length or 0))


def may_begin_head(buffer: bytes) -> bool:
    """Whether these first bytes of a request may be the lane's: no TLS, and not HTTP/2's preface."""
    return buffer[0] > 0x20 and buffer[0] < 0x7F and not buffer.startswith(PREFACE[: len(buffer)])


def end_of_head(buffer: bytes, start: int) -> tuple[int, int] | None:
    """Where a head ends, and what is behind its blank line begins; None where it does not end yet.

    A head is without the CR LF of its last line, but with a bare LF there, which is not plain.
    """
    end = buffer.find(b"\r\n\r\n", start)
    if end >= 0 and buffer.find(b"\n\n", start, end) < 0 and buffer.find(b"\n\r\n", start, end + 2) < 0:
        return end, end + 4
    match = BLANK_LINE.search(buffer, start)
    return None if match is None else (match.start() + 1, match.end())


def may_have_body(method: bytes, status: int) -> bool:
    """Whether anything may follow the head of such an answer; whatever it says, a client takes that for the next."""
    return method.upper() != b"HEAD" and status >= 200 and status not in (204, 304)


def response_of(head: bytes, method: bytes) -> tuple[http.Response, Framing, Body]:
    """An answer's to such a request. Raises `ValueError` in the words of mitmproxy's layers."""
    lines = head.split(b"\r\n")
    response, found = plain_response(lines)
    if response is None:
        try:
            stock_lines = [line.removesuffix(b"\r") for line in head.removesuffix(b"\n").split(b"\n")]
            response = http1.read_response_head(stock_lines)
            size = http1.expected_http_body_size(new_request("", 0, method, b"/", b"HTTP/1.1", (), 0.0), response)
        except ValueError as error:
            raise ValueError(f"Cannot parse HTTP response: {error}") from None
        found = framing(response.headers.fields)
        found.is_plain = False
        return response, found, body_of_size(size)
    if not may_have_body(method, response.data.status_code):
        return response, found, Fixed(0)
    if found.coding is not None:
        return response, found, Chunked()
    return response, found, UntilClose() if found.length is None else Fixed(int(found.length))


def body_of_size(size: int | None) -> Body:
    if size is None:
        return Chunked()
    return UntilClose() if size == -1 else Fixed(size)


def plain_response(lines: list[bytes]) -> tuple[http.Response | None, Framing]:
    found = Framing(is_plain=False)
    version, _, rest = lines[0].partition(b" ")
    status, _, reason = rest.partition(b" ")
    is_status = len(status) == 3 and status.isdigit() and status >= b"100"
    if not is_status or version not in VERSIONS or reason[:1] == b" " or b"\t" in lines[0]:
        return None, found
    if lines[0].translate(None, TEXT) or (fields := plain_fields(lines[1:])) is None:
        return None, found
    found = framing(fields)
    if not found.is_plain or (
        found.coding is not None and (version != b"HTTP/1.1" or status < b"200" or status == b"204")
    ):
        return None, found
    return new_response(version, int(status), reason, fields), found


def why_invalid(response: http.Response) -> str | None:
    """What mitmproxy finds in an answer that is not plain."""
    try:
        validate_headers(response)
    except ValueError as error:
        return (
            f"Received {error} from server, refusing to prevent request smuggling attacks. "
            "Disable the validate_inbound_headers option to skip this security check."
        )
    return None


def why_not_interim(response: http.Response, found: Framing) -> str | None:
    """What there is against an answer before the final one, which no hook sees."""
    status = response.data.status_code
    if status == 101:
        return "Cannot parse HTTP response: a switch of protocols that nobody asked for"
    if status < 100:
        return "Cannot parse HTTP response: a status that is none"
    if found.is_plain:
        return None
    why = why_invalid(response)
    if why is None and (what := ambiguity(response)) is not None:
        why = f"Cannot parse HTTP response: {what}"
    return why


def assemble(first: bytes, fields: Fields) -> bytes:
    return b"%s\r\n%s\r\n" % (first, b"".join([b"%s: %s\r\n" % field for field in fields]))


def request_head(request: http.Request) -> bytes:
    data = request.data
    if data.authority or data.method.upper() == b"CONNECT":
        return bytes(http1.assemble_request_head(request))
    return assemble(b"%s %s %s" % (data.method, data.path, version_on_the_wire(data)), data.headers.fields)


def response_head(response: http.Response) -> bytes:
    data = response.data
    return assemble(b"%s %d %s" % (version_on_the_wire(data), data.status_code, data.reason), data.headers.fields)


def version_on_the_wire(data: http.MessageData) -> bytes:
    """That of messages that an addon has put in place of ours is another where they came over another."""
    return b"HTTP/1.1" if data.http_version in OTHER_VERSIONS else data.http_version
