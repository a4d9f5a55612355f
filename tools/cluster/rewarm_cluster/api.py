"""The HTTP face of an API server, for tools and tests: JSON in, (status, JSON) out, and waiting by watch."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

Json = dict[str, Any]


class Api:
    """One identity on one API server. Safe to share between threads; every failure of the network is raised."""

    def __init__(
        self,
        url: str,
        authority: Path | None = None,
        *,
        certificate: tuple[Path, Path] | None = None,
        token: str | None = None,
        timeout_s: float = 30,
    ) -> None:
        self.url, self.token, self.timeout_s = url, token, timeout_s
        self._tls = ssl.create_default_context(cafile=str(authority) if authority else None)
        if certificate is not None:
            self._tls.load_cert_chain(*map(str, certificate))
        self._local = threading.local()

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "", accept: str = "application/json"
    ) -> tuple[int, Any]:
        """(HTTP status, answer). PATCH is a JSON merge patch unless `content_type` says otherwise."""
        usual = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = self._headers(accept) | {"Content-Type": content_type or usual}
        text = None if body is None else json.dumps(body)
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._answer(connection, method, path, text, headers)
            except (
                http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest,
                ssl.SSLEOFError, ssl.SSLZeroReturnError,
            ):  # fmt: skip
                # A kept connection that the server closed meanwhile; a new one tells whether the server is there.
                connection.close()
        self._local.connection = self._connection()
        return self._answer(self._local.connection, method, path, text, headers)

    def get(self, path: str) -> Json:
        """The object at `path`; anything but 200 is an error."""
        status, answer = self.call("GET", path)
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {answer}")
        return cast(Json, answer)

    def ready(self) -> bool:
        """Whether the server answers and is ready; never raises."""
        try:
            return self.call("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def watch(self, path: str, *, timeout_s: float, **query: str) -> Iterator[Json]:
        """Events of a watch on a collection, from its present state on, until `timeout_s` is over."""
        connection = self._connection(timeout_s + 5)
        query = {"watch": "true", "timeoutSeconds": str(max(1, int(timeout_s)))} | query
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers=self._headers("application/json"))
            answer = connection.getresponse()
            if answer.status != 200:
                raise AssertionError(f"watch {path}: {answer.status} {answer.read().decode(errors='replace')}")
            for line in answer:
                yield json.loads(line)
        finally:
            connection.close()

    def wait(self, path: str, condition: Callable[[Json | None], bool], *, within_s: float = 60) -> Json | None:
        """The named object at `path` (None: absent) once the condition holds; AssertionError shows how it stood."""
        collection, _, name = path.rpartition("/")
        give_up = time.monotonic() + within_s
        current: Json | None = None
        while (left := give_up - time.monotonic()) > 0:
            status, answer = self.call("GET", path)
            current = answer if status == 200 else None
            if condition(current):
                return current
            version = self.get(f"{collection}?fieldSelector=metadata.name%3D{name}")["metadata"]["resourceVersion"]
            selection = {"fieldSelector": f"metadata.name={name}", "resourceVersion": version}
            status, answer = self.call("GET", path)
            current = answer if status == 200 else None
            if condition(current):
                return current
            for event in self.watch(collection, timeout_s=left, **selection):
                if event["type"] == "ERROR":
                    break
                current = None if event["type"] == "DELETED" else event["object"]
                if condition(current):
                    return current
        raise AssertionError(f"{path} did not come to the awaited state in {within_s} s; it is {json.dumps(current)}")

    def _headers(self, accept: str) -> dict[str, str]:
        return {"Accept": accept} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    def _connection(self, timeout_s: float | None = None) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s or self.timeout_s)
        return http.client.HTTPSConnection(
            parts.hostname or "", parts.port, context=self._tls, timeout=timeout_s or self.timeout_s
        )

    @staticmethod
    def _answer(
        connection: http.client.HTTPConnection, method: str, path: str, text: str | None, headers: dict[str, str]
    ) -> tuple[int, Any]:
        connection.request(method, path, body=text, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data[:1] == b"{" else data.decode(errors="replace")
