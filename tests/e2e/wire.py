"""A connection to a service that tests cut in the middle."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

PIECE_BYTES = 65_536


class Wire:
    """A port of this machine whose connections go on to a service."""

    def __init__(self, service_url: str) -> None:
        service = urlsplit(service_url)
        self._service = (service.hostname, service.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Ends every connection; new ones are taken as before."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        # Closing the listener ends it.
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._service)
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                sink.sendall(piece)
        for end in (source, sink):
            self._open.discard(end)
            # Closing alone ends nothing while the other thread reads from it.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def a_wire(service_url: str) -> Iterator[Wire]:
    wire = Wire(service_url)
    try:
        yield wire
    finally:
        wire.close()
