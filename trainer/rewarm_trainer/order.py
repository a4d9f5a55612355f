"""Which rows a step trains on: a pure function of the phase log, the seed and the step number.

A run is a chain of phases. Each begins at a step boundary with its own mixture tree at 0, while the cursors of the
sources carry on from the phase before (design: trainer.md, "Mixture"). World size, workers and micro-batches never
enter. History is immutable: a phase, once written, only gets successors.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewarm_trainer.ascending import Ascending, Window
from rewarm_trainer.mixture import Mixture, exact
from rewarm_trainer.permutation import drawn

MIXTURE = "mixture"
"""Reason of a phase in which only weights within a group moved, a little: no stability gap follows such a border."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training under one mixture.

    `first_step` is the number of updates made before it (0 for the first phase). `skipped` counts rows by source that
    were passed over, untrained, when the phase began (after a divergence the same rows would diverge again).
    `weights` are the shares of sources within their group: all sources of a group or none of it; a group without any
    keeps the run's own weights. `name` is that of the manifest's phase which this stretch belongs to, if any.
    `order_by`: the score column of an ascending order (rewarm_trainer.ascending), `until` the step at which that ends.
    `sequence_length`: tokens of the pieces that every row is cut into; 0: rows stay whole.
    """

    first_step: int
    ratio: float
    reason: str = "start"
    skipped: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    name: str = ""
    order_by: str = ""
    until: int = 0
    sequence_length: int = 0

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "first_step": self.first_step,
            "ratio": self.ratio,
            "reason": self.reason,
            "skipped": dict(self.skipped),
        }
        # Left out where nothing was said: a state written before phases had these reads, and writes, the same.
        if self.weights is not None:
            value["weights"] = dict(self.weights)
        if self.order_by:
            value |= {"order_by": self.order_by, "until": self.until}
        if self.sequence_length:
            value["sequence_length"] = self.sequence_length
        return {**value, "name": self.name} if self.name else value

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Phase:
        weights = value.get("weights")
        skipped = dict(value["skipped"])
        own = None if weights is None else dict(weights)
        ordered = {"order_by": value.get("order_by", ""), "until": value.get("until", 0)}
        ordered["sequence_length"] = value.get("sequence_length", 0)
        name = value.get("name", "")
        return Phase(value["first_step"], value["ratio"], value["reason"], skipped, own, name, **ordered)

    def within(self, group: Mapping[str, float]) -> dict[str, float]:
        """The weights of one group (name: the run's own weight) in this phase. ValueError when only some are given."""
        given = {name: weight for name, weight in (self.weights or {}).items() if name in group}
        if given and given.keys() != group.keys():
            missing = sorted(group.keys() - given.keys())
            raise ValueError(f"phase at step {self.first_step}: weights of {sorted(given)} but none of {missing}")
        return given or dict(group)


def mixture_of(phase: Phase, corpus: Mapping[str, float], replay: Mapping[str, float]) -> Mixture:
    """The tree of one phase; a weight for a source that the run does not have is a ValueError."""
    unknown = sorted(set(phase.weights or {}) - corpus.keys() - replay.keys())
    if unknown:
        raise ValueError(f"phase at step {phase.first_step}: weights for {unknown}, which are no sources of this run")
    groups = [{name: exact(weight) for name, weight in phase.within(group).items()} for group in (corpus, replay)]
    return Mixture(exact(phase.ratio), *groups)


class RowAddress(NamedTuple):
    """One row of training text: `row` of `source`, on its `epoch`-th pass through the source."""

    source: str
    epoch: int
    row: int


class Draw(NamedTuple):
    """What a source gives to some rows of the plan: `places` among them, and its `epochs` and `rows`, [n] each."""

    source: str
    places: NDArray[np.int64]
    epochs: NDArray[np.int64]
    rows: NDArray[np.int64]


class Order:
    """The rows of every step of a run.

    `sizes` are the training rows of each source; `corpus` and `replay` the run's own weights within these groups.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        seed: int,
        rows_per_step: int,
        sizes: Mapping[str, int],
        corpus: Mapping[str, float],
        replay: Mapping[str, float],
        ascending: Ascending | None = None,
    ) -> None:
        if not phases or phases[0].first_step != 0:
            raise ValueError("the first phase begins at step 0")
        starts = [phase.first_step for phase in phases]
        if starts != sorted(starts):
            raise ValueError(f"phases out of order: {starts}")
        self.phases = tuple(phases)
        self._starts = starts
        self._seed = seed
        self._rows_per_step = rows_per_step
        self._sizes = dict(sizes)
        self.replay_names = frozenset(replay)
        self._ascending = ascending
        self._mixtures = [mixture_of(phase, corpus, replay) for phase in phases]
        self._cursors = self._first_cursors()
        self._windows = [self._windows_of(phase) for phase in self.phases]

    def _first_cursors(self) -> list[dict[str, int]]:
        """Cursor of each source at the start of each phase, skipped rows included."""
        cursors: list[dict[str, int]] = []
        current = dict.fromkeys(self._sizes, 0)
        for number, phase in enumerate(self.phases):
            if number:
                rows = (phase.first_step - self.phases[number - 1].first_step) * self._rows_per_step
                for name, count in self._mixtures[number - 1].counts(rows).items():
                    current[name] += count
            for name, count in phase.skipped.items():
                current[name] += count
            cursors.append(dict(current))
        return cursors

    @property
    def borders(self) -> list[int]:
        """Steps after which a stability gap may open: where phases begin, but those of small moves of the weights."""
        return [phase.first_step for phase in self.phases if phase.reason != MIXTURE]

    def _phase_of(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1

    def ratio(self, step: int) -> float:
        """The replay ratio asked for in update `step` + 1."""
        return self.phases[self._phase_of(step)].ratio

    def phase(self, step: int) -> Phase:
        """The phase of update `step` + 1."""
        return self.phases[self._phase_of(step)]

    def rows(self, step: int, first: int = 0, count: int | None = None) -> list[RowAddress]:
        """Rows `first` .. `first + count` of the global batch of update `step` + 1 (all of it by default)."""
        found: dict[int, RowAddress] = {}
        for draw in self.draws(step, first=first, count=count):
            found |= {
                place: RowAddress(draw.source, epoch, row)
                for place, epoch, row in zip(
                    draw.places.tolist(), draw.epochs.tolist(), draw.rows.tolist(), strict=True
                )
            }
        return [found[place] for place in sorted(found)]

    def draws(self, step: int, *, steps: int = 1, first: int = 0, count: int | None = None) -> list[Draw]:
        """The same of the updates `step` + 1 .. `step` + `steps`, one after the other, by source. All of one phase."""
        number, own = self._phase_of(step), self._rows_per_step - first if count is None else count
        if steps > 1 and self._phase_of(step + steps - 1) != number:
            raise ValueError(f"steps {step} to {step + steps - 1} are not of one phase")
        begin = (step - self.phases[number].first_step) * self._rows_per_step + first
        found = []
        for source, places, start in self._mixtures[number].split(begin, (steps - 1) * self._rows_per_step + own):
            indices = np.arange(start, start + len(places), dtype=np.int64) + self._cursors[number][source]
            if own < self._rows_per_step:
                # Between the slices of two steps lie the rows of other ranks.
                at, within = np.divmod(places, self._rows_per_step)
                mine = within < own
                places, indices = (at * own + within)[mine], indices[mine]
            if len(places):
                found.append(Draw(source, places, *self._drawn(number, source, indices)))
        return found

    def steps_left(self, step: int, most: int) -> int:
        """How many updates from `step` + 1 on are of its phase; `most` at most."""
        following = self._phase_of(step) + 1
        return min(most, self._starts[following] - step) if following < len(self._starts) else most

    def _drawn(
        self, number: int, source: str, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(epochs, rows) at `indices` of a source: by score within the phase's window, shuffled before and after it."""
        window = self._windows[number].get(source)
        epochs, rows = drawn(self._seed, source, indices, self._sizes[source])
        if window is None:
            return epochs, rows
        within = (indices >= window.start) & (indices < window.start + window.length)
        if within.any():
            if self._ascending is None:
                raise ValueError(f"source {source}: rows by score {window.column!r} need the scores of its documents")
            epochs[within], rows[within] = self._ascending.drawn(window, indices[within] - window.start)
        return epochs, rows

    def _windows_of(self, phase: Phase) -> dict[str, Window]:
        """Where in the order of each corpus source a phase takes its rows by score: the same stretch for the whole of
        the manifest's phase, however often the log was added to since it began."""
        if not phase.order_by:
            return {}
        first = next(at for at, each in enumerate(self.phases) if each.name == phase.name)
        begun = self.phases[first]
        rows = self._mixtures[first].counts((begun.until - begun.first_step) * self._rows_per_step)
        return {
            name: Window(self._seed, name, self._sizes[name], self._cursors[first][name], rows[name], phase.order_by)
            for name in rows
            if name not in self.replay_names
        }

    def trained(self, step: int) -> dict[str, int]:
        """Rows of each source in the first `step` updates, skipped ones not counted."""
        counts = dict.fromkeys(self._sizes, 0)
        for number, phase in enumerate(self.phases):
            if phase.first_step >= step:
                break
            end = self.phases[number + 1].first_step if number + 1 < len(self.phases) else step
            rows = (min(end, step) - phase.first_step) * self._rows_per_step
            for name, count in self._mixtures[number].counts(rows).items():
                counts[name] += count
        return counts

    def cursors(self, step: int) -> dict[str, int]:
        """Where each source stands after `step` updates: the number of its next row, skipped ones counted."""
        number = self._phase_of(step)
        cursors = dict(self._cursors[number])
        rows = (step - self.phases[number].first_step) * self._rows_per_step
        for name, count in self._mixtures[number].counts(rows).items():
            cursors[name] += count
        return cursors

    def extended(self, phase: Phase) -> list[Phase]:
        """The phase log with `phase` at its end; a phase that never trained a step is replaced, keeping its skips."""
        phases = [old for old in self.phases if old.first_step < phase.first_step]
        replaced = [old for old in self.phases if old.first_step == phase.first_step]
        skipped = dict(phase.skipped)
        for old in replaced:
            for name, count in old.skipped.items():
                skipped[name] = skipped.get(name, 0) + count
        return [*phases, replace(phase, skipped=skipped)]
