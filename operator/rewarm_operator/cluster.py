"""The only talker to the API server: JSON in, JSON out, every answer counted, every failure an exception with a name.

Decides nothing about runs. Reads are always allowed; a write passes only while `may_write` says so (leadership), which
is asked again at the last moment before it leaves.

Objects stay plain JSON: typed models would cost more processor time per run than all the rest of the operator.
"""

from __future__ import annotations

import os
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from aiohttp import hdrs
from pydantic_core import from_json, to_json
from yarl import URL

from rewarm_operator.resources import LEASE, TOKEN_REVIEW, Resource
from rewarm_operator.server_time import SERVER

Json = dict[str, Any]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS = 20.0
WATCH_MARGIN_SECONDS = 10.0
"""How long after its announced end, and how long without a bookmark's interval, a watch counts as dead."""
BOOKMARK_SECONDS = 70.0
"""Bookmarks come every 60 s: a watch that is silent for longer than this is not alive."""
PAGE = 250
_TOKEN_SECONDS = 60.0
_LINE = 16 * 1024 * 1024
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """The API server refused or failed a request."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after: float | None = None,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after
        self.fields = fields
        """Of the object that was sent: those that it is refused for."""

    @property
    def uncertain(self) -> bool:
        """Whether a write that ended so may have been done all the same."""
        return self.status >= 500


class Unreachable(ApiError):
    """No answer came: no connection, a connection lost, or too slow. What was asked may have been done."""

    def __init__(self, message: str) -> None:
        super().__init__(599, "Unreachable", message)


class NotLeading(Exception):
    """A write was held back because this process is not (or may no longer be) the active operator."""


class Cluster(Protocol):
    """What the operator needs of an API server."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json: ...

    async def page(
        self, resource: Resource, namespace: str | None, selector: str, token: str = "", *, metadata_only: bool = False
    ) -> Json:
        """One page of a list: `items`, and `metadata` with resourceVersion and the token of the next page."""
        ...

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, seconds: int
    ) -> AsyncIterator[tuple[str, Json]]:
        """(type, object) from `version` on, bookmarks too, for at most about `seconds`. Raises ApiError (410: gone)."""
        ...

    async def create(self, resource: Resource, namespace: str | None, body: Mapping[str, Any]) -> Json: ...

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> Json:
        """JSON merge patch."""
        ...

    async def replace(self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]) -> Json: ...

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> Json: ...

    async def served(self) -> dict[str, list[str]]:
        """API groups and their versions, the preferred one first."""
        ...


@dataclass(frozen=True)
class Credentials:
    """What a kubeconfig says. `header`: of Authorization; empty: a client certificate."""

    server: str
    tls: ssl.SSLContext
    header: str


class Access:
    """Where the API server is, how it is trusted, and the current credentials."""

    def __init__(
        self,
        server: str,
        tls: ssl.SSLContext | bool,
        token_file: Path | None,
        header: str,
        self_contained: Callable[[], Credentials | None] | None = None,
    ) -> None:
        self._self_contained = self_contained
        self.server = server.rstrip("/")
        self.tls = tls
        self._token_file = token_file
        self._header = header
        self._read = 0.0

    @classmethod
    async def load(cls, self_contained: Callable[[], Credentials | None] | None = None) -> Access:
        """KUBECONFIG when it is set, else the pod's service account, else the user's own kubeconfig.

        `self_contained` reads a kubeconfig that asks for nothing but itself, and returns None for others.
        """
        inside = "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()
        if inside and not os.environ.get("KUBECONFIG"):
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            host = f"[{host}]" if ":" in host else host
            tls = ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt"))
            return cls(f"https://{host}:{port}", tls, SERVICE_ACCOUNT / "token", "")
        return await cls._from_kubeconfig(self_contained)

    @classmethod
    async def _from_kubeconfig(cls, self_contained: Callable[[], Credentials | None] | None) -> Access:
        if self_contained and (found := self_contained()):
            return cls(found.server, found.tls, None, found.header, self_contained)
        # Understands more (plugins that fetch a token, relative paths), and costs 40 MB.
        from kubernetes.aio import client, config

        configuration = client.Configuration()
        await config.load_kube_config(client_configuration=configuration)
        tls: ssl.SSLContext | bool = False
        if configuration.verify_ssl:
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        header = await configuration.get_api_key_with_prefix("BearerToken") or ""
        if header and " " not in header:
            header = f"Bearer {header}"
        return cls(configuration.host, tls, None, header, self_contained)

    def authorization(self) -> str:
        """Value of the Authorization header (empty: client certificate). A pod's token is read again every minute."""
        now = time.monotonic()
        if self._token_file is not None and (not self._header or now - self._read > _TOKEN_SECONDS):
            self._header = "Bearer " + self._token_file.read_text().strip()
            self._read = now
        return self._header

    async def renew(self) -> None:
        """After a 401: read the credentials again."""
        if self._token_file is not None:
            self._read = 0.0
        else:
            fresh = await self._from_kubeconfig(self._self_contained)
            self.server, self.tls, self._header = fresh.server, fresh.tls, fresh._header

    def session(self, limit: int) -> aiohttp.ClientSession:
        """A session of the running event loop that adds the current credentials to every request."""

        async def authorize(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if header := self.authorization():
                request.headers[hdrs.AUTHORIZATION] = header
            return await handler(request)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=self.tls, keepalive_timeout=60),
            headers={hdrs.USER_AGENT: "rewarm-operator", hdrs.ACCEPT: _JSON},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
            skip_auto_headers=(hdrs.ACCEPT_ENCODING,),
            middlewares=(authorize,),
        )


class HttpCluster:
    """A real API server. Made inside the event loop that uses it."""

    def __init__(self, access: Access, may_write: Callable[[], bool], *, connections: int = 16) -> None:
        self.access = access
        self.requests: Counter[tuple[str, str]] = Counter()
        """Answers by (verb, HTTP code; `error` where none came)."""
        self._may_write = may_write
        self._session = access.session(connections)
        # Of their own: a Lease must never wait behind a thousand Jobs, and a watch holds its connection for minutes.
        self._streams = access.session(0)
        self._timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=5)

    async def close(self) -> None:
        await self._session.close()
        await self._streams.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        return await self._call("get", "GET", resource, resource.path(namespace, name))

    async def page(
        self, resource: Resource, namespace: str | None, selector: str, token: str = "", *, metadata_only: bool = False
    ) -> Json:
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        query |= {"continue": token} if token else {}
        headers = {"Accept": _METADATA} if metadata_only else None
        return await self._call("list", "GET", resource, resource.path(namespace), query=query, headers=headers)

    async def create(self, resource: Resource, namespace: str | None, body: Mapping[str, Any]) -> Json:
        return await self._call("create", "POST", resource, resource.path(namespace), body)

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> Json:
        path = resource.path(namespace, name, subresource)
        return await self._call("patch", "PATCH", resource, path, body, content_type=_MERGE)

    async def replace(self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]) -> Json:
        return await self._call("update", "PUT", resource, resource.path(namespace, name), body)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> Json:
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        return await self._call("delete", "DELETE", resource, resource.path(namespace, name), body)

    async def served(self) -> dict[str, list[str]]:
        answer = await self._call("get", "GET", None, "/apis")
        groups = {}
        for group in answer.get("groups", ()):
            preferred = group.get("preferredVersion", {}).get("version", "")
            versions = [item["version"] for item in group.get("versions", ())]
            groups[group["name"]] = sorted(versions, key=lambda version: version != preferred)
        return groups

    async def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, seconds: int
    ) -> AsyncIterator[tuple[str, Json]]:
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        query |= {"timeoutSeconds": str(seconds)} | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(
            total=seconds + WATCH_MARGIN_SECONDS, sock_connect=5, sock_read=min(BOOKMARK_SECONDS, seconds + 5)
        )
        url = self._url(resource.path(namespace), query)
        try:
            async with self._streams.get(url, timeout=timeout, read_bufsize=1 << 20) as response:
                self.requests["watch", str(response.status)] += 1
                if response.status != 200:
                    raise _refusal(response, await response.read())
                buffer = bytearray()
                async for chunk in response.content.iter_any():
                    buffer += chunk
                    if b"\n" not in chunk:
                        continue
                    *lines, rest = bytes(buffer).split(b"\n")
                    buffer = bytearray(rest)
                    for line in lines:
                        event = from_json(line)
                        if event["type"] == "ERROR":
                            raise _status_error(event["object"])
                        yield event["type"], event["object"]
        except TimeoutError:
            # A silent watch is dead as far as anybody can tell; the next one goes on from the last version seen.
            return
        except aiohttp.ClientError as error:
            self.requests["watch", "error"] += 1
            raise Unreachable(_text(error)) from error

    async def _call(
        self,
        verb: str,
        method: str,
        resource: Resource | None,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str = _JSON,
    ) -> Json:
        data = None
        if body is not None:
            data = to_json(body)
            headers = {hdrs.CONTENT_TYPE: content_type, **(headers or {})}
        url = self._url(path, query)
        for last in (False, True):
            if method != "GET" and resource not in (LEASE, TOKEN_REVIEW) and not self._may_write():
                raise NotLeading(f"{method} {path}")
            async with self._answer(verb, method, resource, url, data, headers) as response:
                text = await response.read()
                if response.status < 300:
                    answer: Json = from_json(text)
                    return answer
                if response.status != 401 or last:
                    raise _refusal(response, text)
            await self.access.renew()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def _answer(
        self,
        verb: str,
        method: str,
        resource: Resource | None,
        url: URL,
        data: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response, counted; a failed connection or a timeout becomes Unreachable."""
        session = self._streams if resource is LEASE else self._session
        began = time.monotonic()
        try:
            async with session.request(method, url, data=data, headers=headers, timeout=self._timeout) as response:
                SERVER.told(response.headers.get(hdrs.DATE), time.monotonic() - began)
                self.requests[verb, str(response.status)] += 1
                yield response
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.requests[verb, "error"] += 1
            raise Unreachable(f"{method} {url.path}: {_text(error)}") from error

    def _url(self, path: str, query: Mapping[str, str] | None = None) -> URL:
        url = URL(self.access.server + path, encoded=True)
        return url.with_query(query) if query else url


def _refusal(response: aiohttp.ClientResponse, text: bytes) -> ApiError:
    retry_after = _seconds(response.headers.get(hdrs.RETRY_AFTER))
    try:
        answer = from_json(text)
    except ValueError:
        answer = {"message": text[:200].decode(errors="replace")}
    error = _status_error({"code": response.status, **(answer if isinstance(answer, dict) else {})})
    error.status = response.status
    error.retry_after = error.retry_after if retry_after is None else retry_after
    return error


def _status_error(status: Mapping[str, Any]) -> ApiError:
    details = status.get("details") or {}
    return ApiError(
        int(status.get("code") or 500),
        str(status.get("reason") or "Unknown"),
        str(status.get("message") or "no message"),
        _seconds(details.get("retryAfterSeconds")),
        tuple(str(cause.get("field") or "") for cause in details.get("causes") or ()),
    )


def _seconds(value: Any) -> float | None:
    try:
        return min(max(float(value), 0.0), 300.0)
    except (TypeError, ValueError):
        return None


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
