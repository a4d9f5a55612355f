"""Items of benchmarks as plain values: what is asked, what a model answered, and whether that was right. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Any

from rewarm_api.quantity import exact


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model: the nats of `continuation` after `context`, or (None) a greedy answer to `context`.

    A greedy answer ends before the first of `until`, at the end of the document, or after `limit` tokens.
    """

    context: str
    continuation: str | None
    until: tuple[str, ...] = ()
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of a request: the log-probability `nats` (natural logarithm, so 0 or below) of the whole
    continuation and whether each of its tokens was the likeliest; or the `text` that it wrote."""

    nats: float = math.nan
    is_greedy: bool = False
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """What an item's answers come to. `right`: numbers of the right choices (None: unknown, or a written answer);
    `nats`: log-probability of each choice; `answer`: the choice taken, or the text."""

    is_right: bool
    right: tuple[int, ...] | None
    nats: tuple[float, ...]
    answer: str

    @property
    def choice_loss(self) -> float | None:
        """Nats that the right choices cost among all choices: -log(sum of right / sum of all); None with fewer than two
        choices, or where the right one is not known."""
        if self.right is None or len(self.nats) < 2:
            return None
        return _logsumexp(self.nats) - _logsumexp([self.nats[number] for number in self.right])


def _logsumexp(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values)) if math.isfinite(highest) else highest


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a task. `digest`: sha256 of its data, so that two models, or two runs, are compared on the same
    items; `source`: what the harness knows it by."""

    number: int
    digest: str
    requests: tuple[Request, ...]
    source: Any = field(repr=False, compare=False, default=None)


@dataclass(frozen=True)
class TaskForm:
    """A task asked in one way. `mark` says what answers to an item's requests come to."""

    name: str
    few_shot: int
    items: tuple[Item, ...] = field(repr=False)
    mark: Callable[[Item, Sequence[Answer]], Mark] = field(repr=False)

    @property
    def digest(self) -> str:
        """sha256 over everything that is asked, in order: data, templates, examples."""
        total = hashlib.sha256()
        for item in self.items:
            total.update(repr((item.digest, item.requests)).encode())
        return "sha256:" + total.hexdigest()


@dataclass(frozen=True)
class Task:
    """A task in every prompt form that the manifest gives it (at least one). All forms ask the same items."""

    name: str
    metric: str
    forms: tuple[TaskForm, ...]

    @property
    def digests(self) -> dict[str, str]:
        return {form.name: form.digest for form in self.forms}


def selection_of(task: Task, share: str) -> frozenset[int]:
    """Numbers of the items that choose the form and are then not judged: none where there is one form.

    The items with the smallest sha256 of their digest, `share` (percent) of all rounded up, at least one and not all:
    a function of the data alone, the same for every model. Raises ValueError when a task has too few items to share.
    """
    if len(task.forms) < 2:
        return frozenset()
    items = task.forms[0].items
    wanted = ceil(Fraction(exact(float(share.removesuffix("%")))) / 100 * len(items))
    if wanted >= len(items):
        raise ValueError(f"{len(items)} items are too few to choose a form on {share} of them")
    order = sorted(items, key=lambda item: (hashlib.sha256(f"form:{item.digest}".encode()).digest(), item.number))
    return frozenset(item.number for item in order[:wanted])


def best_form(marks: Sequence[Sequence[Mark]]) -> int:
    """The number of the form that suits a model: most right answers, then least choice loss, then the first."""

    def merit(number: int) -> tuple[int, float, int]:
        own = marks[number]
        losses = [mark.choice_loss for mark in own]
        known = [loss for loss in losses if loss is not None]
        return sum(mark.is_right for mark in own), -math.fsum(known) / len(known) if known else 0.0, -number

    return max(range(len(marks)), key=merit)
