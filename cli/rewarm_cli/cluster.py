"""The only module of the command line that imports a Kubernetes client: finds the cluster and speaks HTTP to it.

Objects go in and come out as plain JSON. Decides nothing about runs; how failures read is `cluster_errors.py`'s.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from rewarm_api.errors import ManifestError, MissingInputError, Problem
from rewarm_cli import cluster_errors

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
# A watch or a log may be silent for long; the server ends a watch before this.
STREAM_SECONDS = 300.0
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MERGE_PATCH = "application/merge-patch+json"
# Every follower of a log holds one connection.
_CONNECTIONS = 128


@dataclass(frozen=True)
class Resource:
    """A kind of object that the API server serves, by its address."""

    prefix: str
    plural: str
    kind: str
    group: str = ""

    @property
    def qualified(self) -> str:
        """As kubectl and RBAC name it: `continualruns.rewarm.dev`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        parts = [self.prefix]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *(quote(part, safe="") for part in (name, subresource) if part)]
        return "/".join(parts)


RUNS = Resource("/apis/rewarm.dev/v1alpha1", "continualruns", "ContinualRun", "rewarm.dev")
STUDIES = Resource("/apis/rewarm.dev/v1alpha1", "mixturestudies", "MixtureStudy", "rewarm.dev")
PODS = Resource("/api/v1", "pods", "Pod")
EVENTS = Resource("/api/v1", "events", "Event")


class StreamEnded(Exception):
    """A watch or a log broke off, or was silent for too long; ask again from where it stopped."""


class Cluster:
    """One API server, as one user. `namespace` is the one of the context. Safe to use from several threads."""

    def __init__(self, api_client: Any, namespace: str) -> None:
        self._api = api_client
        self.namespace = namespace
        self.address: str = api_client.configuration.host

    def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        return self._json("GET", resource, namespace, name)

    def list(
        self, resource: Resource, namespace: str | None, *, labels: str = "", fields: str = ""
    ) -> tuple[list[dict[str, Any]], str]:
        """Objects and the resource version to watch from; `namespace` None: all namespaces."""
        items: list[dict[str, Any]] = []
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": "500", "continue": ""}
        while True:
            page = self._json("GET", resource, namespace, query=query)
            items += page.get("items", ())
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return items, page["metadata"]["resourceVersion"]

    def create(
        self, resource: Resource, namespace: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        return self._json("POST", resource, namespace, query=_strict(dry_run), body=body)

    def replace(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        return self._json("PUT", resource, namespace, name, query=_strict(dry_run), body=body)

    def patch(self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A merge patch: None removes a key."""
        return self._json("PATCH", resource, namespace, name, query=_strict(False), body=body)

    def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> dict[str, Any]:
        """Only the object of this uid, never a new one of the same name."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        return self._json("DELETE", resource, namespace, name, body=options)

    def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str, fields: str, seconds: float
    ) -> Iterator[dict[str, Any]]:
        """Watch events (`type`, `object`) after `version`, for at most `seconds`. Raises StreamEnded."""
        query = {
            "watch": "true", "resourceVersion": version, "labelSelector": labels, "fieldSelector": fields,
            "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, int(seconds))),
        }  # fmt: skip
        response = self._send("GET", resource, namespace, "", "", query, None, seconds + 1)
        for line in _lines(response):
            yield json.loads(line)

    def log(
        self, namespace: str, pod: str, *, container: str, follow: bool, since: str = "", tail: int | None = None
    ) -> Iterator[str]:
        """Lines of a container, each with its time in front. Raises StreamEnded when the connection breaks."""
        query = {
            "container": container, "follow": str(follow).lower(), "timestamps": "true", "sinceTime": since,
            "tailLines": "" if tail is None else str(tail),
        }  # fmt: skip
        yield from _lines(self._send("GET", PODS, namespace, pod, "log", query, None, STREAM_SECONDS))

    def _json(
        self,
        method: str,
        resource: Resource,
        namespace: str | None,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        from urllib3.exceptions import HTTPError

        response = self._send(method, resource, namespace, name, "", query or {}, body, READ_SECONDS)
        try:
            answer: dict[str, Any] = json.loads(response.data)
        except HTTPError as error:
            raise cluster_errors.unreachable(self.address, error) from None
        return answer

    def _send(
        self,
        method: str,
        resource: Resource,
        namespace: str | None,
        name: str,
        subresource: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        seconds: float,
    ) -> Any:
        """The open answer of a request that was granted; anything else is raised in words."""
        from urllib3.exceptions import HTTPError

        url = self._api.configuration.host.rstrip("/") + resource.path(namespace, name, subresource)
        given = {key: value for key, value in query.items() if value}
        url += "?" + urlencode(given) if given else ""
        headers = {"Accept": "*/*" if subresource else "application/json", "User-Agent": "rewarm"}
        headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
        self._api.update_params_for_auth(headers, [], ["BearerToken"], url, method, body)
        try:
            answer = self._api.call_api(
                method, url, header_params=headers, body=body, _request_timeout=(CONNECT_SECONDS, seconds)
            )
            response = answer.response
            if response.status >= 400:
                raise cluster_errors.refused(
                    response.status,
                    response.data,
                    cluster_errors.Asked(method, resource, namespace, name, subresource, self.address, body),
                )
        except HTTPError as error:
            raise cluster_errors.unreachable(self.address, error) from None
        except ValueError as error:
            raise cluster_errors.unreachable(self.address, error) from None
        return response


def connect(kubeconfig: str | None = None, context: str | None = None) -> Cluster:
    """The cluster that kubectl would talk to: kubeconfig, $KUBECONFIG, ~/.kube/config, else the pod's own.

    Raises MissingInputError (66) without any of them, ManifestError (64) for one that cannot be used or a context that
    it does not have, or when the Kubernetes client is not installed.
    """
    config = _library()
    # Its warnings (a pool that is full, a retry) are no words for people.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    files = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    known = [path for path in files.split(os.pathsep) if Path(path).expanduser().is_file()]
    if not known:
        if kubeconfig is None and context is None and _SERVICE_ACCOUNT.joinpath("token").is_file():
            return _inside(config)
        raise MissingInputError(
            f"kubeconfig: found no file {files}, expected how to reach a cluster; "
            "name one with --kubeconfig or KUBECONFIG"
        )
    try:
        merged = config.kube_config.KubeConfigMerger(os.pathsep.join(known)).config.value
        contexts = [getattr(item, "value", item) for item in merged.get("contexts") or []]
        chosen = _context(contexts, context or merged.get("current-context") or "")
        client = config.new_client_from_config(os.pathsep.join(known), context=chosen["name"])
    except ManifestError:
        raise
    except Exception as error:  # the library raises its own, yaml's, and KeyErrors of half a file
        found = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(
            Problem("kubeconfig", f"{':'.join(known)}: {found}", "a kubeconfig with a current context", "mend it")
        ) from None
    return Cluster(_tuned(client), chosen["context"].get("namespace") or "default")


def _context(contexts: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    for item in contexts:
        if item["name"] == wanted:
            return item
    names = [str(item["name"]) for item in contexts]
    expected = "one of " + ", ".join(names) if names else "a kubeconfig that names a cluster"
    fix = cluster_errors.meant(wanted, names) or "name a context with --context"
    raise ManifestError(Problem("context", wanted or "none that is current", expected, fix))


def _inside(config: Any) -> Cluster:
    from kubernetes import client

    configuration = client.Configuration()
    config.load_incluster_config(configuration)
    namespace = _SERVICE_ACCOUNT.joinpath("namespace").read_text().strip()
    return Cluster(_tuned(client.ApiClient(configuration)), namespace)


def _tuned(client: Any) -> Any:
    """Without the pool's silent retries: a refused connection is told at once."""
    from kubernetes.client import ApiClient

    configuration = client.configuration
    configuration.retries = False
    configuration.connection_pool_maxsize = _CONNECTIONS
    return ApiClient(configuration)


def _library() -> Any:
    try:
        from kubernetes import config
    except ImportError:
        raise ManifestError(
            Problem(
                "rewarm",
                "no Kubernetes client",
                "the package kubernetes, which the base install leaves out",
                "run: pip install 'rewarm[cluster]'",
            )
        ) from None
    return config


def _strict(dry_run: bool) -> dict[str, str]:
    return {"fieldValidation": "Strict", "fieldManager": "rewarm", "dryRun": "All" if dry_run else ""}


def _lines(response: Any) -> Iterator[str]:
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for part in response.stream(amt=None, decode_content=False):
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
    except (HTTPError, OSError) as error:
        raise StreamEnded(str(error)) from None
    finally:
        response.close()
    if rest:
        yield rest.decode(errors="replace")
