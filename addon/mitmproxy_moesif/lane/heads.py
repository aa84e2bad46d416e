"""Parses "plain" HTTP/1 heads, which all parsers read alike, in a few passes over all lines at once.

Any other head is left to mitmproxy's own parser or layers. So the same heads are refused with the same messages, and a
head is never interpreted in two ways.
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
"""Lengths of the header names that affect framing and the connection; all other headers are skipped."""

BINDING = (b"ntlm", b"negotiate")
"""Authentication schemes that apply to the connection, and so to all later requests on it."""

MOST_KNOWN = 1024
LONGEST_KNOWN = 256

PREFACE = b"PRI * HTTP/2.0"


class KnownLines(dict[bytes, tuple[bytes, bytes]]):
    """A cache of parsed header lines, because most lines repeat between requests.

    Raises `ValueError` for a line that is not plain. Holds at most `MOST_KNOWN` lines of up to `LONGEST_KNOWN` bytes.
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
    """The fields of a head's lines; None if a line is not plain."""
    known = known_lines
    try:
        return tuple([known[line] for line in lines])
    except ValueError:
        return None


class Framing:
    """What the fields say about the end of a message. Not plain if a framing field is repeated.

    The class attributes are the defaults without such fields.
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
        """Whether the connection is closed after this message.

        Like `mitmproxy.net.http.http1.connection_close`, but "close" is case-insensitive.
        """
        if self.connection is None:
            return version != b"HTTP/1.1"
        return closes(self.connection, version)

    @property
    def has_body(self) -> bool:
        """Whether a request has a body."""
        return self.coding is not None or (self.length is not None and self.length != b"0")

    @property
    def is_chunked(self) -> bool:
        return self.coding is not None and b"chunked" in self.coding.lower()

    def announces(self, size: int) -> bool:
        """Whether a body of `size` bytes matches the head unambiguously."""
        if self.is_chunked:
            return self.length is None
        return (self.length or b"").lstrip(b"0") == (b"%d" % size).lstrip(b"0")

    @property
    def ends_with_connection(self) -> bool:
        """Whether a response's body ends when the connection is closed."""
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
    """A plain request whose target is a path; None for any other head.

    `head` has no blank line at its end. `begun` is in seconds since 1970.
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
    """Whether these first bytes may start an HTTP/1 request: not TLS, and not HTTP/2's preface."""
    return buffer[0] > 0x20 and buffer[0] < 0x7F and not buffer.startswith(PREFACE[: len(buffer)])


def end_of_head(buffer: bytes, start: int) -> tuple[int, int] | None:
    """The index where the head ends, and the index after its blank line; None if the head is incomplete.

    The head does not include the CR LF of its last line, but it includes a bare LF there, which is not plain.
    """
    end = buffer.find(b"\r\n\r\n", start)
    if end >= 0 and buffer.find(b"\n\n", start, end) < 0 and buffer.find(b"\n\r\n", start, end + 2) < 0:
        return end, end + 4
    match = BLANK_LINE.search(buffer, start)
    return None if match is None else (match.start() + 1, match.end())


def may_have_body(method: bytes, status: int) -> bool:
    """Whether a response may have a body. If not, a client takes any bytes after the head as the next response."""
    return method.upper() != b"HEAD" and status >= 200 and status not in (204, 304)


def response_of(head: bytes, method: bytes) -> tuple[http.Response, Framing, Body]:
    """Parse a response head; `method` is the request's. Raises `ValueError` with the message of mitmproxy's layers."""
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
    """What mitmproxy objects to in a response that is not plain; None if nothing."""
    try:
        validate_headers(response)
    except ValueError as error:
        return (
            f"Received {error} from server, refusing to prevent request smuggling attacks. "
            "Disable the validate_inbound_headers option to skip this security check."
        )
    return None


def why_not_interim(response: http.Response, found: Framing) -> str | None:
    """Why an interim response must be refused; None if it is fine. Hooks do not see interim responses."""
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
    """The HTTP version to send. An addon may have inserted a message that came over HTTP/2 or HTTP/3."""
    return b"HTTP/1.1" if data.http_version in OTHER_VERSIONS else data.http_version
