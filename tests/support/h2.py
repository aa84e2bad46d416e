"""HTTP/2 over TLS, both ends: an upstream and a client, on the `h2` package and a certificate made for the test."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.client import trusting
from tests.support.closing import Closing
from tests.support.listener import Listener

Headers = list[tuple[str, str]]

TIMEOUT = 20.0


@dataclass
class H2Message:
    """A request or a response: `headers` with the pseudo-headers first, `trailers` where there were any.

    `reset` is the error code where the stream was reset before its end. `pieces` go before the body, each in a
    frame of its own; they must fit the window.
    """

    headers: Headers = field(default_factory=list)
    body: bytes = b""
    trailers: Headers = field(default_factory=list)
    reset: int | None = None
    pieces: Sequence[bytes] = ()

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def status(self) -> int:
        return int(self.get(":status") or 0)


def ok(request: H2Message) -> H2Message:
    """`{"ok": true}`."""
    return H2Message([(":status", "200"), ("content-type", "application/json")], b'{"ok": true}')


def get(path: str) -> H2Message:
    """A request."""
    return H2Message([(":method", "GET"), (":scheme", "https"), (":authority", "api.example.com"), (":path", path)])


class H2Upstream(Closing):
    """An HTTP/2 server with a certificate for localhost and 127.0.0.1, on a free port from creation to `close`.

    `handler` makes the response of each request; one with `reset` set resets the stream after what it has of headers
    and body. `ca_path` is the certificate in PEM, to trust it by.
    """

    def __init__(self, handler: Callable[[H2Message], H2Message] = ok) -> None:
        self.handler = handler
        self._folder = tempfile.TemporaryDirectory(prefix="h2-upstream-")
        self.ca_path, key = make_certificate(Path(self._folder.name))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca_path, key)
        self._context.set_alpn_protocols(["h2"])
        self._condition = threading.Condition()
        self._requests: list[H2Message] = []
        self._listener = Listener(self._serve)
        self.port = self._listener.port
        self.url = f"https://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()
        self._folder.cleanup()

    def requests(self) -> list[H2Message]:
        """Every request that came in full, in order."""
        with self._condition:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = TIMEOUT) -> list[H2Message]:
        """Waits for so many requests. Raises `AssertionError` when the time is over."""
        with self._condition:
            done = self._condition.wait_for(lambda: len(self._requests) >= count, timeout)
            assert done, f"{len(self._requests)} of {count} requests within {timeout} s"
            return list(self._requests)

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain.dup(), server_side=True) as sock:
                _Exchanges(sock, client_side=False, complete=self._answer).run()
        except (ssl.SSLError, OSError, h2.exceptions.ProtocolError):
            return  # the peer has gone, or speaks something else

    def _answer(self, exchanges: _Exchanges, stream: int, request: H2Message) -> None:
        with self._condition:
            self._requests.append(request)
            self._condition.notify_all()
        exchanges.send(stream, self.handler(request))


class H2Client(Closing):
    """One HTTP/2 connection over TLS; the server's certificate is not checked. Waits end with `TimeoutError`."""

    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self.sock = trusting("h2").wrap_socket(
            socket.create_connection(("127.0.0.1", port), timeout), server_hostname="localhost"
        )
        assert self.sock.selected_alpn_protocol() == "h2", "the server does not speak HTTP/2"
        self._responses: dict[int, H2Message] = {}
        self._exchanges = _Exchanges(self.sock, client_side=True, complete=self._note)

    def close(self) -> None:
        self.sock.close()

    def exchange(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        trailers: Sequence[tuple[str, str]] = (),
        authority: str = "api.example.com",
    ) -> H2Message:
        """Sends one request and returns its response."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
        return self.exchange_all([H2Message([*pseudo, *headers], body, list(trailers))])[0]

    def exchange_all(self, requests: Sequence[H2Message]) -> list[H2Message]:
        """Sends all requests at once, each on a stream of its own, and returns their responses in the same order."""
        return self.finish(self.begin(requests))

    def begin(self, requests: Sequence[H2Message]) -> list[int]:
        """Sends all requests at once and reads nothing; returns their streams."""
        return [self._exchanges.open(request) for request in requests]

    def finish(self, streams: Sequence[int]) -> list[H2Message]:
        """The responses of these streams, in the same order."""
        while not all(stream in self._responses for stream in streams):
            assert self._exchanges.step(), "the server closed the connection before it answered"
        return [self._responses.pop(stream) for stream in streams]

    def allow_table(self, size: int) -> Any:
        """Lets the server keep so many bytes of headers in its table; returns the decoder, which keeps the same."""
        return self._exchanges.allow_table(size)

    def _note(self, _exchanges: _Exchanges, stream: int, response: H2Message) -> None:
        self._responses[stream] = response


class _Exchanges:
    """The messages of one connection: collects what comes, sends what there is room for in the windows.

    `complete` is called with each message that has come in full, or that was reset.
    """

    def __init__(
        self, sock: ssl.SSLSocket, *, client_side: bool, complete: Callable[[_Exchanges, int, H2Message], None]
    ) -> None:
        self._sock = sock
        self._complete = complete
        self._coming: dict[int, H2Message] = {}
        self._pieces: dict[int, list[bytes]] = {}
        self._going: dict[int, H2Message] = {}
        # The tests send what a validating library would not.
        config = h2.config.H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._flush()

    def run(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Takes what the peer sent; False where it closed."""
        data = self._sock.recv(65_536)
        if not data:
            return False
        for event in self._connection.receive_data(data):
            self._take(event)
        for stream in tuple(self._going):
            self._continue(stream)
        self._flush()
        return True

    def open(self, request: H2Message) -> int:
        stream = self._connection.get_next_available_stream_id()
        self.send(stream, request)
        self._flush()
        return stream

    def allow_table(self, size: int) -> Any:
        self._connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
        self._flush()
        return self._connection.decoder

    def send(self, stream: int, message: H2Message) -> None:
        only_headers = not (message.body or message.pieces or message.trailers) and message.reset is None
        if message.headers:
            self._connection.send_headers(stream, message.headers, end_stream=only_headers)
        for piece in message.pieces:
            self._connection.send_data(stream, piece)
        if not only_headers:
            self._going[stream] = H2Message([], message.body, message.trailers, message.reset)
            self._continue(stream)

    def _continue(self, stream: int) -> None:
        message = self._going[stream]
        while message.body:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room <= 0:
                return
            piece, message.body = message.body[:room], message.body[room:]
            last = not message.body and not message.trailers and message.reset is None
            self._connection.send_data(stream, piece, end_stream=last)
        if message.reset is not None:
            self._connection.reset_stream(stream, message.reset)
        elif message.trailers:
            self._connection.send_headers(stream, message.trailers, end_stream=True)
        del self._going[stream]

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                self._coming[event.stream_id] = H2Message(_headers(event))
                self._pieces[event.stream_id] = []
            case h2.events.DataReceived():
                self._pieces[event.stream_id].append(event.data)
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self._coming[event.stream_id].trailers = _headers(event)
            case h2.events.StreamEnded():
                self._complete(self, event.stream_id, self._whole(event.stream_id))
            case h2.events.StreamReset():
                self._going.pop(event.stream_id, None)
                message = self._whole(event.stream_id)
                message.reset = int(event.error_code or 0)
                self._complete(self, event.stream_id, message)

    def _whole(self, stream: int) -> H2Message:
        message = self._coming.pop(stream, H2Message())
        message.body = b"".join(self._pieces.pop(stream, []))
        return message

    def _flush(self) -> None:
        if data := self._connection.data_to_send():
            self._sock.sendall(data)


def _headers(event: h2.events.RequestReceived | h2.events.ResponseReceived | h2.events.TrailersReceived) -> Headers:
    return [(_text(name), _text(value)) for name, value in event.headers]


def _text(given: str | bytes) -> str:
    return given.decode("utf-8", "surrogateescape") if isinstance(given, bytes) else given


def make_certificate(folder: Path, host: str = "localhost", address: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate for a host and an address, valid for a day, and its key: two files in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(address))])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path


def make_pem(folder: Path) -> Path:
    """A certificate and its key in one file."""
    both = folder / "both.pem"
    both.write_bytes(b"".join(path.read_bytes() for path in make_certificate(folder)))
    return both
