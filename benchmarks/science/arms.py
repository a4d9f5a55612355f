"""One arm of a reproduction: a manifest, known by everything that it depends on. Pure.

The key is a digest over the manifest, the texts it reads and the key of its base. So equal arms of different findings
are one run, a changed setting is another folder, and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arm:
    """`spec` is the manifest's, without `baseModel` where `base` is given; `continued` holds further lines of
    `baseModel.run` (checkpoint, anneal)."""

    name: str
    spec: Mapping[str, Any]
    base: Arm | None = None
    continued: Mapping[str, Any] = field(default_factory=dict)

    def key(self, texts: Mapping[str, str]) -> str:
        """`texts`: sha256 of each corpus by name."""
        facts = {
            "spec": self.spec,
            "texts": {name: texts[name] for name in sorted(self.sources())},
            "base": self.base.key(texts) if self.base else None,
            "continued": dict(self.continued),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]

    def folder(self, texts: Mapping[str, str]) -> str:
        return f"{self.name}-{self.key(texts)}"

    def manifest(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """The ContinualRun, with paths relative to a folder beside `runs/` and `corpora/`."""
        spec = dict(self.spec)
        if self.base:
            spec = {"baseModel": {"run": {"path": f"../runs/{self.base.folder(texts)}", **self.continued}}, **spec}
        return {
            "apiVersion": "rewarm.dev/v1alpha1",
            "kind": "ContinualRun",
            "metadata": {"name": self.folder(texts)},
            "spec": spec,
        }

    def sources(self) -> Iterator[str]:
        for group in ("corpus", "replay"):
            for source in self.spec.get(group, {}).get("sources", ()):
                yield source["name"]

    def lineage(self) -> Iterator[Arm]:
        """Everything that must be trained for this arm, the oldest first, itself last."""
        if self.base:
            yield from self.base.lineage()
        yield self
