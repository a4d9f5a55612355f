"""`replay.fromRun`: the rows that an earlier run really saw, as replay sources of this one, in a new order.

Only positions that the earlier run's state says it trained on; rows that it passed over after a divergence are not
among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rewarm_api.errors import DataError, ManifestError, MissingInputError, Problem
from rewarm_api.pins import Pins, SourcePin
from rewarm_api.snapshot import Group, Snapshot
from rewarm_trainer.addresses import cache_uri
from rewarm_trainer.ascending import Ascending
from rewarm_trainer.checkpoint import manifest_root, open_checkpoints
from rewarm_trainer.corpus.prepare import shared_cache
from rewarm_trainer.corpus.source import SubsetSource, TokenSource, open_source
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.earlier import earlier_work
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.workdir import WorkFolder, read_snapshot


def order_of(snapshot: Snapshot, pins: Pins, phases: list[Phase], ascending: Ascending | None = None) -> Order:
    """The row order of a prepared run under a phase log. Without `ascending` it counts, but finds no row by score."""
    corpus = {source.name for source in snapshot.group(Group.CORPUS)}
    return Order(
        phases,
        seed=snapshot.training.seed,
        rows_per_step=pins.plan.rows_per_step,
        sizes={name: pin.rows for name, pin in pins.sources.items()},
        corpus={name: pin.weight for name, pin in pins.sources.items() if name in corpus},
        replay={name: pin.weight for name, pin in pins.sources.items() if name not in corpus},
        ascending=ascending,
    )


def earlier_sources(snapshot: Snapshot, root: Path, cache: Path) -> dict[str, SubsetSource]:
    """The replay sources of a run with `replay.fromRun`, by name; empty for any other run.

    A name that the corpus of this run uses too gets the earlier run's name before it.
    """
    asked = snapshot.replay.from_run
    if asked is None:
        return {}
    work = earlier_work("spec.replay.fromRun", asked.path, asked.name, snapshot, root, cache)
    if not work.pins.exists():
        raise MissingInputError(f"{work.root}: not the work folder of a prepared run; correct spec.replay.fromRun.path")
    earlier = read_snapshot(work)
    _check_length(snapshot, earlier, work)
    pins = Pins.model_validate_json(work.pins.read_text())
    taken = _seen(work, earlier, pins)
    # What the earlier run itself replayed from a run before it: rows of rows.
    before = earlier_sources(earlier, manifest_root(work), cache)
    own = {source.name for source in snapshot.sources}
    result = {}
    for name, pin in pins.sources.items():
        if not taken.get(name):
            continue
        whole = before[name] if name in before else _whole(work, name, pin, cache, earlier)
        chosen = f"{earlier.name}-{name}" if name in own else name
        subset = SubsetSource(whole, taken=taken[name], seed=earlier.training.seed, size=pin.rows, source=name)
        subset.name = chosen
        result[chosen] = subset
    if not result:
        raise MissingInputError(
            f"{work.root}: that run left no row to replay: it diverged before it trained on any that it did not pass "
            "over later, or it is a branch, whose rows begin where its trunk stood; replay its trunk, or text by "
            "spec.replay.sources"
        )
    return result


def _whole(work: WorkFolder, name: str, pin: SourcePin, cache: Path, earlier: Snapshot) -> TokenSource:
    folder = folder_of(pin.prepared, "sources", cache)
    if earlier.checkpoints.uri:
        shared_cache(cache, cache_uri(earlier)).fetch(folder)
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: the shards of {work.root} are gone; prepare that run again")
    return open_source(folder, name, earlier.training.sequence_length)


def _check_length(snapshot: Snapshot, earlier: Snapshot, work: WorkFolder) -> None:
    """Rows are what was seen, so this run's rows must be as long as the earlier run's (64)."""
    found, expected = snapshot.training.sequence_length, earlier.training.sequence_length
    if found != expected:
        raise ManifestError(
            Problem(
                "spec.training.sequenceLength",
                str(found),
                f"{expected}, as in the run that spec.replay.fromRun replays ({work.root})",
                f"set {expected}, or replay by spec.replay.sources",
            )
        )


def check_tokenizer(sources: Mapping[str, SubsetSource], fingerprint: str) -> None:
    """Refuse rows that another tokenizer than this run's made (65): their ids mean other text."""
    for name, source in sources.items():
        if source.index.tokenizer != fingerprint:
            raise DataError(
                f"source {name!r} of spec.replay.fromRun: its rows were made by tokenizer "
                f"{source.index.tokenizer[:19]}, this run's is {fingerprint[:19]}; continue the model that the earlier "
                "run trained, or replay text by spec.replay.sources"
            )


def _seen(work: WorkFolder, snapshot: Snapshot, pins: Pins) -> dict[str, int]:
    """How many places of each source's order were trained on, up to the first rows that were passed over.

    An ascending phase that was not trained to its end took rows from everywhere in its stretch: none of it counts.
    """
    checkpoints = open_checkpoints(work.root)
    committed = checkpoints.committed()
    if not committed:
        raise MissingInputError(f"{work.root}: no committed checkpoint; let that run finish before replaying it")
    state = TrainState(**json.loads((checkpoints.verify(committed[-1]).folder / "state.json").read_text()))
    phases = state.phase_log()
    for number, phase in enumerate(phases):
        if phase.skipped or phase.until > state.step:
            named = [at for at, each in enumerate(phases) if phase.order_by and each.name == phase.name]
            number = min([number, *named])
            return order_of(snapshot, pins, phases[:number]).cursors(phases[number].first_step) if number else {}
    return state.cursors
