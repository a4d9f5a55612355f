"""What finished arms left behind, seed by seed, and effects over all seeds with intervals.

A contrast pairs the same documents under two arms of the same seed; the interval is over seeds and documents
(`rewarm_trainer.statistics_seeds`). Nothing here decides what a number means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewarm_bench import product
from rewarm_bench.effects import Estimate, PerDocument
from rewarm_trainer.flips import exact_share
from rewarm_trainer.statistics import Delta
from rewarm_trainer.statistics_seeds import hierarchical_interval, hierarchical_ratio

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """One set at one moment of one run: tokens trained, and its documents before and then."""

    tokens: int
    documents: PerDocument

    @property
    def rise(self) -> float:
        return float(self.documents.difference.sum() / self.documents.labels.sum())


@dataclass(frozen=True)
class Run:
    """One finished work folder."""

    folder: Path

    def report(self) -> dict[str, Any]:
        return product.report(self.folder)

    def snapshot(self) -> dict[str, Any]:
        """The manifest as the run resolved it."""
        loaded: dict[str, Any] = json.loads((self.folder / "snapshot.json").read_text())
        return loaded

    @property
    def tokens(self) -> int:
        return int(self.report()["tokens"]["trained"])

    def final(self, name: str) -> PerDocument:
        """Every held-out document of a set, before and after."""
        return product.per_document(self.folder, name)

    def looks(self, name: str) -> list[Look]:
        """All looks at a set, over the documents that each look scored; the last is the final model on the same."""
        folders = sorted((self.folder / "state" / "looks").glob("step-*"))
        steps = self.report()["checkpoint"]["step"]
        batch = self.tokens // steps
        looks = []
        for folder in folders:
            step = int(re.sub(r"\D", "", folder.name))
            looks.append(Look(step * batch, product.per_document(self.folder, name, folder / f"{name}.json")))
        return [*looks, Look(self.tokens, first(self.final(name), len(looks[0].documents.hashes)))]


def first(documents: PerDocument, count: int) -> PerDocument:
    return PerDocument(
        documents.hashes[:count], documents.baseline[:count], documents.final[:count], documents.labels[:count]
    )


Runs = Sequence[Run]
"""One arm, one run per seed, in the order of the seeds."""


def change(runs: Runs, name: str) -> Estimate:
    """Final minus base on one set: positive is forgetting, negative is gain."""
    return _interval([run.final(name) for run in runs], lambda documents: documents.difference)


def contrast(one: Runs, other: Runs, *names: str) -> Estimate:
    """Final loss of `one` minus that of `other`; over several sets the plain mean of their losses."""
    differences, labels = [], []
    for first_run, second_run in zip(one, other, strict=True):
        parts = [_paired(first_run.final(name), second_run.final(name)) for name in names]
        total = sum(float(own.sum()) for _, own in parts)
        # Each set weighs the same, whatever its number of tokens.
        scales = [total / (len(parts) * own.sum()) for _, own in parts]
        differences.append(np.concatenate([scale * gap for scale, (gap, _) in zip(scales, parts, strict=True)]))
        labels.append(np.concatenate([scale * own for scale, (_, own) in zip(scales, parts, strict=True)]))
    return _estimate(hierarchical_interval(differences, labels))


def contrast_to_mean(one: Runs, others: Sequence[Runs], name: str) -> Estimate:
    """Final loss of `one` minus the mean of those of `others`, on one set."""
    differences, labels = [], []
    for run, *beside in zip(one, *others, strict=True):
        pairs = [_paired(run.final(name), other.final(name)) for other in beside]
        differences.append(np.mean([gap for gap, _ in pairs], axis=0))
        labels.append(pairs[0][1])
    return _estimate(hierarchical_interval(differences, labels))


def contrast_of_contrasts(one: tuple[Runs, Runs], other: tuple[Runs, Runs], name: str) -> Estimate:
    """(first minus second of `one`) minus (first minus second of `other`), on one set."""
    differences, labels = [], []
    for runs in zip(*one, *other, strict=True):
        first, second, third, fourth = (run.final(name) for run in runs)
        gap, own = _paired(first, second)
        _paired(second, third)
        differences.append(gap - _paired(third, fourth)[0])
        labels.append(own)
    return _estimate(hierarchical_interval(differences, labels))


def share_removed(without: Runs, treated: Runs, name: str) -> Estimate:
    """1 - forgetting of `treated` / forgetting of `without`, both from the base."""
    tops, bottoms, labels = [], [], []
    for plain, mixed in zip(without, treated, strict=True):
        before, after = plain.final(name), mixed.final(name)
        _paired(before, after)
        tops.append(before.difference - after.difference)
        bottoms.append(before.difference)
        labels.append(before.labels)
    return _estimate(hierarchical_ratio(tops, bottoms, labels))


def over(choose: Callable[[list[Look]], Look], runs: Runs, name: str) -> Estimate:
    """The rise above the base at one chosen look of each run."""
    return _interval([choose(run.looks(name)).documents for run in runs], lambda documents: documents.difference)


def between(choose: Callable[[list[Look]], tuple[Look, Look]], runs: Runs, name: str) -> Estimate:
    """The rise from one chosen look to another within each run."""
    differences, labels = [], []
    for run in runs:
        earlier, later = choose(run.looks(name))
        difference, own = _paired(later.documents, earlier.documents)
        differences.append(difference)
        labels.append(own)
    return _estimate(hierarchical_interval(differences, labels))


def rise_contrast(choose: Callable[[list[Look]], Look], one: Runs, other: Runs, name: str) -> Estimate:
    """The chosen look of `one` minus the chosen look of `other`, document by document."""
    differences, labels = [], []
    for first_run, second_run in zip(one, other, strict=True):
        a, b = (choose(run.looks(name)).documents for run in (first_run, second_run))
        if a.hashes != b.hashes:
            raise ValueError(f"{first_run.folder} and {second_run.folder} looked at other documents of {name}")
        differences.append(a.difference - b.difference)
        labels.append(a.labels)
    return _estimate(hierarchical_interval(differences, labels))


def recovered(runs: Runs, name: str) -> Estimate:
    """Share of the peak's rise that is gone at the end: (peak - end) / (peak - base)."""
    tops, bottoms, labels = [], [], []
    for run in runs:
        looks = run.looks(name)
        top, end = peak(looks).documents, looks[-1].documents
        tops.append(_paired(top, end)[0])
        bottoms.append(top.difference)
        labels.append(top.labels)
    return _estimate(hierarchical_ratio(tops, bottoms, labels))


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one number per run, with the t interval over seeds."""
    return _estimate(hierarchical_interval([np.array([value, value]) for value in values], [np.ones(2)] * len(values)))


def share_of_runs(runs: Runs, holds: Callable[[Run], bool]) -> Estimate:
    """Share of the runs for which something holds, with the exact interval: three of three are no certainty."""
    return _estimate(exact_share(sum(map(holds, runs)), len(runs)))


def decisions(run: Run) -> list[Mapping[str, Any]]:
    """Those of a run that moved weights."""
    return [each for each in run.report().get("decisions", []) if "weights" in each]


def mean_weight(runs: Runs, name: str, texts: Sequence[str]) -> str:
    """Mean of a text's weight over all decisions; even without one."""
    found = [[each["weights"].get(name, 0.0) for each in decisions(run)] or [1 / len(texts)] for run in runs]
    return f"{name} {sum(sum(each) / len(each) for each in found) / len(found):.0%}"


def peak(looks: list[Look]) -> Look:
    """The highest look. A maximum over noisy looks is biased upward: read it beside its interval."""
    return max(looks, key=lambda look: look.rise)


def early_peak(share: float) -> Callable[[list[Look]], Look]:
    """The highest look up to the one at `share` of the run (marks fire after the first step beyond them)."""

    def choose(looks: list[Look]) -> Look:
        mark = next(look.tokens for look in looks if look.tokens >= share * looks[-1].tokens)
        return peak([look for look in looks if look.tokens <= mark])

    return choose


def curves(runs: Runs, name: str) -> tuple[Numbers, Numbers]:
    """(tokens, rise[seed, look]) of one set, the base at zero first; the looks that all seeds have.

    A controller that moves a ratio begins a phase, and with it dense looks, where the seed's own losses say so.
    """
    every = [{look.tokens: look.rise for look in run.looks(name)} for run in runs]
    shared = sorted(set.intersection(*map(set, every)))
    return np.array([0.0, *shared]), np.array([[0.0, *(looks[tokens] for tokens in shared)] for looks in every])


def _paired(one: PerDocument, other: PerDocument) -> tuple[Numbers, Numbers]:
    """(nats of one minus other, labels). ValueError unless both scored the same documents."""
    if one.hashes != other.hashes or (one.labels != other.labels).any():
        raise ValueError("the arms scored different documents; they must share texts, vocabulary and hold-out")
    return one.final - other.final, one.labels


def _interval(found: Sequence[PerDocument], difference: Callable[[PerDocument], Numbers]) -> Estimate:
    return _estimate(hierarchical_interval([difference(each) for each in found], [each.labels for each in found]))


def _estimate(delta: Delta) -> Estimate:
    return Estimate(delta.mean, delta.low, delta.high)
