"""A `DeliveryServer` in a thread of the proxy, if there is no delivery process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from mitmproxy_moesif.delivery.protocol import Message, unpacked
from mitmproxy_moesif.delivery.server import DeliveryServer


class DeliveryThread:
    """Has the interface of `ChildProcess`. `heard` gets each message, in threads of the server."""

    def __init__(self, heard: Callable[[Message], None]) -> None:
        self._sent: SimpleQueue[bytes] = SimpleQueue()
        server = DeliveryServer(self._messages(), heard, apart=False)
        self._thread = threading.Thread(target=server.run, name="moesif-serve", daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._sent.put(data)

    def _messages(self) -> Iterator[Message]:
        while True:
            yield unpacked(self._sent.get())

    def flush(self, seconds: float) -> None:
        """Does nothing: `send` hands messages over at once."""

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
