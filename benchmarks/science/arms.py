"""One arm of a reproduction: a manifest, known by everything that it depends on. Pure.

An `Arm` inside a spec stands for the path of that arm's work folder: the base that is continued, the runs of a soup.
`Checkpoint` stands for the folder of its last checkpoint, `Graph` for the edges that its arms teach.
The key is a digest over the manifest, the texts it reads and the keys of those arms. So equal arms of different
findings are one run, a changed setting is another folder, and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CORPORA, RUNS = "../corpora/", "../runs/"
Edges = list[dict[str, Any]]
"""Of a skill graph, as `mixture.skillGraph.edges` has them."""


@dataclass(frozen=True)
class Arm:
    """`name` is for people and names the seed; `verb` is the command that takes the manifest and `--workdir`."""

    name: str
    spec: Mapping[str, Any]
    kind: str = "ContinualRun"
    verb: str = "run"

    def key(self, texts: Mapping[str, str]) -> str:
        """`texts`: sha256 of each corpus by name."""
        spec = _replaced(self.spec, lambda leaf: leaf.name_in_key(texts))
        facts = [self.kind, spec, {name: texts[name] for name in sorted(set(_texts(self.spec)))}]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]

    def name_in_key(self, texts: Mapping[str, str]) -> Any:
        return self.key(texts)

    def folder(self, texts: Mapping[str, str]) -> str:
        return f"{self.name}-{self.key(texts)}"

    def manifest(
        self, texts: Mapping[str, str], learn: Callable[[Sequence[str]], Edges] = lambda _: []
    ) -> dict[str, Any]:
        """The manifest, with paths relative to a folder beside `runs/` and `corpora/`.

        `learn` reads the edges of a graph out of finished folders, given by their names.
        """

        def word(leaf: Arm | Checkpoint | Graph) -> Any:
            if isinstance(leaf, Graph):
                return learn([arm.folder(texts) for arm in leaf.arms])
            inside = leaf.inside if isinstance(leaf, Checkpoint) else ""
            arm = leaf.arm if isinstance(leaf, Checkpoint) else leaf
            return RUNS + arm.folder(texts) + inside

        return {
            "apiVersion": "rewarm.dev/v1alpha1",
            "kind": self.kind,
            "metadata": {"name": self.folder(texts)},
            "spec": _replaced(self.spec, word),
        }

    def needs(self) -> list[Arm]:
        """The arms that must be finished before this one starts."""
        return list(_arms(self.spec))

    def depth(self) -> int:
        """0 for an arm that needs no other."""
        return max((1 + arm.depth() for arm in self.needs()), default=0)

    def lineage(self) -> Iterator[Arm]:
        """Everything that must be trained for this arm, what is needed before what needs it, itself last."""
        for arm in self.needs():
            yield from arm.lineage()
        yield self


@dataclass(frozen=True)
class Checkpoint:
    """The model folder of an arm's last checkpoint."""

    arm: Arm

    @property
    def inside(self) -> str:
        steps = math.ceil(self.arm.spec["budget"]["tokens"] / self.arm.spec["training"]["globalBatchTokens"])
        return f"/checkpoints/step-{steps:08d}"

    def name_in_key(self, texts: Mapping[str, str]) -> Any:
        return self.arm.key(texts) + self.inside


@dataclass(frozen=True)
class Graph:
    """The skill graph that these arms teach (`rewarm_trainer.skills`)."""

    arms: tuple[Arm, ...]

    def name_in_key(self, texts: Mapping[str, str]) -> Any:
        return ["learned from", *(arm.key(texts) for arm in self.arms)]


def merged(tree: Mapping[str, Any], lines: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with further lines: blocks are merged, everything else is replaced."""
    result = dict(tree)
    for name, value in lines.items():
        here = result.get(name)
        result[name] = merged(here, value) if isinstance(here, Mapping) and isinstance(value, Mapping) else value
    return result


def _leaves(tree: Any) -> Iterator[Any]:
    """Everything in a tree that is no mapping and no list; an arm is a leaf."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree


def _arms(tree: Any) -> Iterator[Arm]:
    for leaf in _leaves(tree):
        if isinstance(leaf, Arm):
            yield leaf
        elif isinstance(leaf, Checkpoint):
            yield leaf.arm
        elif isinstance(leaf, Graph):
            yield from leaf.arms


def _texts(tree: Any) -> Iterator[str]:
    """Names of the corpora that a tree reads by their path."""
    for leaf in _leaves(tree):
        if isinstance(leaf, str) and leaf.startswith(CORPORA):
            yield leaf.removeprefix(CORPORA).removesuffix(".jsonl")


def _replaced(tree: Any, word: Callable[[Any], Any]) -> Any:
    """The tree as JSON has it, everything that stands for finished arms replaced by its word."""
    if isinstance(tree, (Arm, Checkpoint, Graph)):
        return word(tree)
    if isinstance(tree, Mapping):
        return {name: _replaced(value, word) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_replaced(value, word) for value in tree]
    return tree
