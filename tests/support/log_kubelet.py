"""A kubelet that only answers for logs: an API server asks it over HTTPS, as it asks any node."""

from __future__ import annotations

import ssl
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


class LogKubelet:
    """Holds what containers have written; followers get more as it comes, until `end`. A context manager."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._lines: dict[str, list[str]] = defaultdict(list)
        self._ended: set[str] = set()
        self._changed = threading.Condition()
        self.asked: list[tuple[str, dict[str, str]]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def write(self, pod: str, *lines: str) -> None:
        """Lines with their time in front."""
        with self._changed:
            self._lines[pod] += lines
            self._changed.notify_all()

    def end(self, pod: str) -> None:
        """Its container writes nothing more: followers are let go."""
        with self._changed:
            self._ended.add(pod)
            self._changed.notify_all()

    def __enter__(self) -> LogKubelet:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _stream(self, pod: str, follow: bool, send: Any) -> None:
        told = 0
        over = False
        while not over:
            with self._changed:
                while len(self._lines[pod]) == told and pod not in self._ended and follow:
                    self._changed.wait()
                fresh, over = self._lines[pod][told:], pod in self._ended or not follow
            for line in fresh:
                send(line)
            told += len(fresh)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                # /containerLogs/NAMESPACE/POD/CONTAINER
                url = urlsplit(self.path)
                pod = url.path.split("/")[3]
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                kubelet.asked.append((pod, query))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                kubelet._stream(pod, query.get("follow") == "true", self._chunk)
                self.wfile.write(b"0\r\n\r\n")

            def _chunk(self, line: str) -> None:
                data = line.encode() + b"\n"
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
