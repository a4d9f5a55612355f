"""From the work folders of finished runs to measurements, and to what the law may be cited for.

A run counts where its verdict was measured: the whole of each set, at the end. Under a constant learning rate the looks
on the way are ends of shorter runs too; they score the first documents of a set, so their paired difference is added to
the baseline of the whole set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Group, Role, SegmentKind, Snapshot
from rewarm_api.study_runs import ChildRun
from rewarm_trainer.laws.critical import Critical, Curve, find_critical
from rewarm_trainer.laws.sets import Measurement
from rewarm_trainer.report import load_report
from rewarm_trainer.study.folder import StudyFolder
from rewarm_trainer.workdir import read_snapshot


@dataclass(frozen=True)
class FinishedRun:
    """A run of the study with what it left."""

    child: ChildRun
    snapshot: Snapshot
    pins: Pins
    report: dict[str, Any]

    @property
    def parameters(self) -> int:
        return int(self.report["model"]["parameters"])

    @property
    def tokens(self) -> int:
        return int(self.report["tokens"]["trained"])

    @property
    def share(self) -> float:
        """Of new text."""
        return 1.0 - self.child.ratio

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(tokens, loss) of the looks between warm-up and end, if the learning rate is constant there; else none."""
        kinds = {segment.kind for segment in self.pins.plan.segments}
        if not kinds <= {SegmentKind.WARMUP, SegmentKind.CONSTANT}:
            return []
        warm = max(
            [segment.end for segment in self.pins.plan.segments if segment.kind is SegmentKind.WARMUP], default=0
        )
        value = self.report["sets"][name]
        looks = [look for look in value["history"] if look.get("delta") and warm < look["tokens"] < self.tokens]
        return [(look["tokens"], value["baseline"]["loss"] + look["delta"]["mean"]) for look in looks]


def gather(folder: StudyFolder, children: Sequence[ChildRun]) -> list[FinishedRun]:
    """Every run of a finished study. All models must have one tokenizer (64), and all runs the same text (65): else
    their losses cannot be compared."""
    runs = []
    for child in children:
        work = folder.work(child)
        pins = Pins.model_validate_json(work.pins.read_text())
        runs.append(FinishedRun(child, read_snapshot(work), pins, load_report(work.root)))
    tokenizers = {run.pins.tokenizer: run.child.model for run in runs}
    if len(tokenizers) > 1:
        names = " and ".join(sorted(tokenizers.values()))
        raise ManifestError(
            Problem("spec.grid.models", f"models with {len(tokenizers)} tokenizers ({names})",
                    "one tokenizer: losses per token cannot be compared else", "study each of them on its own")
        )  # fmt: skip
    _same_text(runs)
    return runs


def _same_text(runs: Sequence[FinishedRun]) -> None:
    """A corpus that grew while the study ran must not pass for an effect of the ratio."""
    first, *others = runs
    for run in others:
        if _text_of(run) != _text_of(first):
            raise DataError(
                f"run {run.child.label} of the study saw other text than run {first.child.label}: a corpus or an "
                "evaluation set changed while the study ran; restore it and remove the folder of the run that saw "
                "the change, or start the study over in a new folder"
            )


def _text_of(run: FinishedRun) -> list[Any]:
    return [mixture_of(run.snapshot, run.pins), {name: pin.digest for name, pin in run.pins.sets.items()}]


def measurements(runs: Iterable[FinishedRun], name: str) -> list[Measurement]:
    """What the runs measured on one set, ends first."""
    found = []
    for run in runs:
        place = (run.child.label, run.parameters)
        found.append(Measurement(*place, run.tokens, run.share, run.report["sets"][name]["final"]["loss"]))
        found += [Measurement(*place, tokens, run.share, loss, final=False) for tokens, loss in run.curve(name)]
    return found


def baselines(runs: Iterable[FinishedRun], name: str) -> dict[int, float]:
    """Loss of the untouched model, by its parameters."""
    return {run.parameters: run.report["sets"][name]["baseline"]["loss"] for run in runs}


def critical_ratio(runs: Sequence[FinishedRun]) -> Critical | None:
    """The CMR of the largest model at the largest budget, where the looks of constant learning rates allow it."""
    place = max((run.parameters, run.tokens) for run in runs)
    curves = []
    for run in (run for run in runs if (run.parameters, run.tokens) == place):
        sets = run.report["sets"]
        means = {}
        for role in Role:
            names = [name for name, value in sets.items() if value["role"] == role]
            rows = [
                [
                    loss - sets[name]["baseline"]["loss"]
                    for _, loss in [*run.curve(name), (0, sets[name]["final"]["loss"])]
                ]
                for name in names
            ]
            means[role] = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        tokens = [tokens for tokens, _ in run.curve(next(iter(sets)))] + [run.tokens]
        curves.append(Curve(run.share, tokens, means[Role.NEW], means[Role.RETAINED]))
    return find_critical(curves)


def mixture_of(snapshot: Snapshot, pins: Pins) -> dict[str, list[dict[str, Any]]]:
    """What was mixed: digest and share of every source within its group, whatever the sources are called."""
    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    result: dict[str, list[dict[str, Any]]] = {}
    for group, chosen in ((Group.CORPUS, True), (Group.REPLAY, False)):
        own = [pin for name, pin in pins.sources.items() if (name in corpus) is chosen]
        total = sum(pin.weight for pin in own)
        parts = [{"digest": pin.digest, "share": round(pin.weight / total, 6)} for pin in own]
        result[str(group)] = sorted(parts, key=lambda part: (part["digest"], part["share"]))
    return result


def corpus_tokens(run: FinishedRun) -> int:
    """Training tokens that the new corpus holds."""
    corpus = {source.name for source in run.snapshot.group(Group.CORPUS)}
    return sum(pin.tokens for name, pin in run.pins.sources.items() if name in corpus)


def recipe_of(snapshot: Snapshot) -> str:
    """Digest of how it was trained, mixture, budget and seed apart: a law of another recipe is cited with a warning."""
    training = {
        key: value for key, value in snapshot.training.to_json().items() if key not in ("seed", "microBatchRows")
    }
    return digest_of([snapshot.schedule.to_json(), training])
