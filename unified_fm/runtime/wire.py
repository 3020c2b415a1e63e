"""A TCP connection between two processes of a run that carries JSON objects, one a line."""

import contextlib
import json
import socket
from typing import Any

_LONGEST = 2**24  # bytes of a line; a config with all its settings has some thousands
_STUCK = 20.0  # seconds that a full buffer may block a send


class Broken(Exception):
    """The other end is gone, or speaks another language."""


class Wire:
    """One end of a connection."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(_STUCK)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        self._rest = b""

    def fileno(self) -> int:
        """For `selectors`."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends an object. Raises `Broken`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Broken(str(error)) from error

    def receive(self) -> list[dict[str, Any]]:
        """The objects that have arrived whole; waits only where nothing at all has arrived.

        Raises:
            Broken: the connection is closed, or something else than objects came.
        """
        try:
            found = self._socket.recv(2**16)
        except (ConnectionResetError, BrokenPipeError):  # closed before it had read all
            found = b""
        except OSError as error:
            raise Broken(str(error)) from error
        if not found:
            raise Broken("its connection was closed")
        *lines, self._rest = (self._rest + found).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError as error:
            raise Broken("it sent something else than a worker of this program does") from error
        if len(self._rest) > _LONGEST or not all(isinstance(m, dict) for m in messages):
            raise Broken("it sent something else than a worker of this program does")
        return messages

    def close(self) -> None:
        """Closes the connection; the other end sees it at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
