"""Answers about objects, each with the spec that it is for: most are looked at several times in a row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from rewarm_api.defaults import Defaults
from rewarm_operator.settings import Settings

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """`answer(document, defaults)`, asked anew where spec or chart changed, for the newest `limit` objects."""

    def __init__(self, answer: Callable[[Mapping[str, Any], Defaults], Answer], limit: int) -> None:
        self._answer, self._limit = answer, limit
        self._known: dict[tuple[str, str, Defaults], tuple[Any, Answer]] = {}

    def __call__(self, document: Mapping[str, Any], settings: Settings) -> Answer:
        metadata = document["metadata"]
        defaults = defaults_of(str(metadata["namespace"]), settings)
        key, spec = (str(metadata["uid"]), str(metadata["name"]), defaults), document.get("spec")
        known = self._known.get(key)
        if known is None or known[0] != spec:
            known = self._known[key] = (spec, self._answer(document, defaults))
            if len(self._known) > self._limit:
                del self._known[next(iter(self._known))]
        return known[1]


def defaults_of(namespace: str, settings: Settings) -> Defaults:
    """The chart's, for runs of a namespace."""
    return Defaults(
        settings.default_checkpoints_uri, settings.default_cache_uri, settings.default_tracking_uri, namespace
    )
