"""TLS in front of a plain server: for clients that must check, or show, certificates."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path


class TlsFront:
    """Ends TLS on a port of loopback and passes what is inside on to ``target`` (``host:port``).

    ``certificate`` holds the server's chain and key in PEM. With ``clients`` only clients with a certificate
    of that authority are let in.
    """

    def __init__(
        self, target: str, certificate: Path, *, clients: Path | None = None, address: str = "127.0.0.1"
    ) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        if clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server((address, 0))
        self.host = f"{address}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> TlsFront:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            client,
            self._context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection(self._target) as server,
        ):
            threading.Thread(target=_pipe, args=(server, inside), daemon=True).start()
            _pipe(inside, server)


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
