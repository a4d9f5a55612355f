"""An API server in memory behind `cluster.Cluster`: unique names, resource versions with conflicts, merge-patch, uids.

For tests of what talks to it. Failures are given as a list: the next write meets the next one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from rewarm_operator.cluster import ApiError, Json
from rewarm_operator.resources import Resource


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class MemoryCluster:
    """See the module. `failures`: raised by the next writes; `log`: verb, kind and name of every write."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str | None, str], Json] = {}
        self.log: list[tuple[str, str, str]] = []
        self.bodies: list[Any] = []
        self.failures: list[ApiError | None] = []
        self.away = False
        self._versions, self._uids = itertools.count(1), itertools.count(1)

    def put(self, resource: Resource, namespace: str, item: Json) -> Json:
        """As somebody else would make or change it."""
        known = self.objects.get((resource.kind, namespace, item["metadata"]["name"]))
        metadata = {"uid": known["metadata"]["uid"] if known else f"uid-{next(self._uids)}", "namespace": namespace}
        metadata |= item["metadata"] | {"resourceVersion": str(next(self._versions))}
        stored = {"kind": resource.kind, "apiVersion": resource.version, **item, "metadata": metadata}
        self.objects[resource.kind, namespace, metadata["name"]] = stored
        return copy.deepcopy(stored)

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        if self.away:
            raise ApiError(503, "ServiceUnavailable", "away")
        return copy.deepcopy(self._there(resource, namespace, name))

    async def page(
        self, resource: Resource, namespace: str | None, selector: str, token: str = "", *, metadata_only: bool = False
    ) -> Json:
        items = [
            copy.deepcopy(item)
            for (kind, where, _), item in self.objects.items()
            if kind == resource.kind and namespace in (None, where) and _selects(selector, item)
        ]
        return {"items": items, "metadata": {"resourceVersion": str(next(self._versions))}}

    async def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, seconds: int
    ) -> AsyncIterator[tuple[str, Json]]:
        for _ in ():
            yield "", {}

    async def create(self, resource: Resource, namespace: str | None, body: Mapping[str, Any]) -> Json:
        name = body["metadata"]["name"]
        self._write("create", resource, name, body)
        if (resource.kind, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} already exists")
        return self.put(resource, namespace or "", copy.deepcopy(dict(body)))

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any], subresource: str = ""
    ) -> Json:
        self._write("patch", resource, name, body)
        known = self._there(resource, namespace, name)
        self._check(known, body)
        return self.put(resource, namespace, merged(known, body))

    async def replace(self, resource: Resource, namespace: str, name: str, body: Mapping[str, Any]) -> Json:
        self._write("replace", resource, name, body)
        self._check(self._there(resource, namespace, name), body)
        return self.put(resource, namespace, copy.deepcopy(dict(body)))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> Json:
        self._write("delete", resource, name, {"uid": uid})
        if self._there(resource, namespace, name)["metadata"]["uid"] != uid:
            raise ApiError(409, "Conflict", "the uid in the precondition is another one")
        del self.objects[resource.kind, namespace, name]
        return {"kind": "Status", "status": "Success"}

    async def served(self) -> dict[str, list[str]]:
        return {}

    def _write(self, verb: str, resource: Resource, name: str, body: Any) -> None:
        if self.away:
            raise ApiError(503, "ServiceUnavailable", "away")
        self.log.append((verb, resource.kind, name))
        self.bodies.append(body)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def _there(self, resource: Resource, namespace: str | None, name: str) -> Json:
        found = self.objects.get((resource.kind, namespace, name))
        if found is None:
            raise ApiError(404, "NotFound", f"{name} not found")
        return found

    @staticmethod
    def _check(known: Json, body: Mapping[str, Any]) -> None:
        wanted = (body.get("metadata") or {}).get("resourceVersion")
        if wanted is not None and wanted != known["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")


def _selects(selector: str, item: Json) -> bool:
    """Of the selectors only `name` (it is there) and `name=value`."""
    name, equals, value = selector.partition("=")
    labels = item["metadata"].get("labels") or {}
    return not selector or (labels.get(name) == value if equals else name in labels)
