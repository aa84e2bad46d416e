"""A TLS 1.3 client that asks for new keys again and again. Python's `ssl` cannot; the OpenSSL that it uses can."""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from typing import Any, Self

from tests.support.closing import Closing

ANSWER_ME = 1
"""SSL_KEY_UPDATE_REQUESTED."""


AT_ONCE = 1000


class KeyAsker(Closing):
    """Its handshake is made. It reads nothing that comes later."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(20)
        self.sock.connect(("127.0.0.1", port))
        self._ssl, self._crypto = library("ssl"), library("crypto")
        method = self._pointer(self._ssl.TLS_client_method)
        self._tls = self._pointer(self._ssl.SSL_new, self._pointer(self._ssl.SSL_CTX_new, method))
        came, self._out = (self._pointer(self._crypto.BIO_new, self._pointer(self._crypto.BIO_s_mem)) for _ in "io")
        self._ssl.SSL_set_bio(self._tls, came, self._out)
        self._ssl.SSL_set_connect_state(self._tls)
        while self._ssl.SSL_do_handshake(self._tls) != 1:
            self._send()
            data = self.sock.recv(65_536)
            self._crypto.BIO_write(came, data, len(data))
        self._send()

    @staticmethod
    def _pointer(function: Any, *arguments: ctypes.c_void_p) -> ctypes.c_void_p:
        function.restype = ctypes.c_void_p
        return ctypes.c_void_p(function(*arguments))

    def write(self, data: bytes) -> Self:
        self._ssl.SSL_write(self._tls, data, len(data))
        self._send()
        return self

    def ask(self, times: int) -> None:
        """Raises `OSError` where the peer has ended the connection."""
        for number in range(times):
            self._ssl.SSL_key_update(self._tls, ANSWER_ME)
            self._ssl.SSL_do_handshake(self._tls)
            if number % AT_ONCE == 0:
                self._send()
        self._send()

    def _send(self) -> None:
        room = ctypes.create_string_buffer(65_536)
        while (size := self._crypto.BIO_read(self._out, room, len(room))) > 0:
            self.sock.sendall(room.raw[:size])

    def close(self) -> None:
        self.sock.close()


def library(name: str) -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    assert found is not None, f"there is no lib{name} of OpenSSL"
    return ctypes.CDLL(found)
