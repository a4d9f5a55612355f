"""The stages before this run: what they were scored on, and what they trained on. Read once, when a run is prepared.

    base's run folder --its own lineage, its baseline, its sets--> this run's `state/chain.json` and `state/sets/`

A stage is a run; the model between two stages is what the later one began from, and that run scored it on every set
of the chain as its own baseline. So each run's folder holds its whole past, and no older folder is needed again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, RewarmError
from rewarm_api.pins import Inherited, Pins, SetPin
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.addresses import cache_uri
from rewarm_trainer.checkpoint import manifest_root
from rewarm_trainer.corpus.prepare import Prepared, shared_cache
from rewarm_trainer.corpus.sets import open_set
from rewarm_trainer.corpus.texts import TEXTS, count_seen
from rewarm_trainer.corpus.tokenise import folder_of
from rewarm_trainer.earlier import earlier_work
from rewarm_trainer.files import publish_folder, write_json
from rewarm_trainer.report import load_report
from rewarm_trainer.workdir import WorkFolder, read_snapshot

VERSION = 1
NAME_LENGTH = 40

Warn = Callable[[str], None]


@dataclass(frozen=True)
class StageSet:
    """An evaluation set as a stage knew it, and which stage introduced it under which name and role."""

    digest: str
    prepared: str
    documents: int
    tokens: int
    role: str
    origin: Inherited

    @staticmethod
    def of(name: str, role: str, pin: SetPin, snapshot: Snapshot) -> StageSet:
        origin = pin.inherited or Inherited(run=snapshot.name, uid=snapshot.uid, name=name)
        return StageSet(pin.digest, pin.prepared, pin.documents, pin.tokens, role, origin)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "origin": self.origin.to_json()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> StageSet:
        return StageSet(**{**value, "origin": Inherited.model_validate(value["origin"])})


@dataclass(frozen=True)
class Stage:
    """One run of the chain. `tokens`: trained when the next stage began. `scores`: per document, before it trained."""

    name: str
    uid: str
    tokens: int
    sequence_length: int
    tokenizer: str
    cache_uri: str
    sources: Mapping[str, str]
    sets: Mapping[str, StageSet]
    scores: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "sets": {name: each.to_json() for name, each in self.sets.items()}}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Stage:
        return Stage(**{**value, "sets": {name: StageSet.from_json(each) for name, each in value["sets"].items()}})


@dataclass
class Lineage:
    """The stages before a run, oldest first. `seen`: sets of which a stage has trained on some documents. `missing`:
    sets of earlier stages that this run cannot score, and why."""

    stages: list[Stage] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        stages = [stage.to_json() for stage in self.stages]
        return {"version": VERSION, "stages": stages, "seen": self.seen, "missing": self.missing}

    def sets(self) -> Iterator[tuple[str, StageSet, Stage]]:
        """Each set of the chain once: its name in the newest stage that has it, the set, and that stage."""
        known: set[str] = set()
        for stage in reversed(self.stages):
            for name, each in stage.sets.items():
                if each.digest not in known:
                    known.add(each.digest)
                    yield name, each, stage


def read_lineage(work: WorkFolder) -> Lineage:
    """What a prepared run remembers of the stages before it; empty for the first of a chain."""
    try:
        value = json.loads((work.state / "chain.json").read_text())
    except FileNotFoundError:
        return Lineage()
    stages = [Stage.from_json(stage) for stage in value["stages"]]
    return Lineage(stages, list(value["seen"]), list(value["missing"]))


def lineage_of(pin: Mapping[str, Any], snapshot: Snapshot, root: Path, cache: Path) -> Lineage:
    """The stages before a run whose base model is pinned as `pin`; empty unless that is a run."""
    if pin["kind"] != "run":
        return Lineage()
    work = _parent(pin, snapshot, root, cache)
    return Lineage([*_before(work, cache).stages, _stage(work, int(pin["tokens"]))])


def _parent(pin: Mapping[str, Any], snapshot: Snapshot, root: Path, cache: Path) -> WorkFolder:
    resolved = pin["resolved"]
    return earlier_work("spec.baseModel.run", resolved.get("path"), resolved.get("name"), snapshot, root, cache)


def _before(work: WorkFolder, cache: Path) -> Lineage:
    """The stages before the run in `work`, also one that an older version of this program prepared."""
    if (work.state / "chain.json").exists():
        return read_lineage(work)
    pins = Pins.model_validate_json(work.pins.read_text())
    try:
        return lineage_of(pins.base_model, read_snapshot(work), manifest_root(work), cache)
    except (OSError, ValueError, RewarmError):
        # That run was moved or removed since: the chain begins after it.
        return Lineage()


def remember(work: WorkFolder, pins: Pins, cache: Path) -> None:
    """`state/chain.json` of a prepared run that has none: its preparation was killed, or an older version's."""
    if pins.base_model["kind"] == "run" and not (work.state / "chain.json").exists():
        lineage = _before(work, cache)
        if lineage.stages:
            write_json(work.state / "chain.json", lineage.to_json())


def _stage(work: WorkFolder, tokens: int) -> Stage:
    snapshot, pins = read_snapshot(work), Pins.model_validate_json(work.pins.read_text())
    sets = {
        each.name: StageSet.of(each.name, str(each.role), pins.sets[each.name], snapshot)
        for each in pins.evaluation_sets(snapshot)
    }
    return Stage(
        name=snapshot.name,
        uid=snapshot.uid,
        tokens=tokens,
        sequence_length=snapshot.training.sequence_length,
        tokenizer=pins.tokenizer,
        cache_uri=cache_uri(snapshot) if snapshot.checkpoints.uri else "",
        sources={name: pin.prepared for name, pin in pins.sources.items() if name not in _never_drawn(work)},
        sets=sets,
        scores={name: scores for name in sets if (scores := _baseline(work, name))},
    )


def _never_drawn(work: WorkFolder) -> frozenset[str]:
    """Sources that a finished run has drawn no row of (replay at ratio 0): nothing of them was trained on. Empty while
    it is not finished: who goes on may draw them yet."""
    try:
        report = load_report(work.root)
    except RewarmError:
        return frozenset()
    if report.get("outcome") != "Succeeded":
        return frozenset()
    return frozenset(name for name, tokens in report["tokens"]["by_source"].items() if not tokens)


def _baseline(work: WorkFolder, name: str) -> dict[str, Any] | None:
    try:
        scores: dict[str, Any] = json.loads((work.state / "baseline" / f"{name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return {key: scores[key] for key in ("nats", "labels", "bytes")}


def inherit(
    lineage: Lineage, pins: Pins, prepared: Prepared, snapshot: Snapshot, work: WorkFolder, cache: Path, warn: Warn
) -> Pins:
    """The pins of a new run with every set of its lineage that it does not have itself.

    Brings their documents into the cache, asks what was seen, and writes `state/chain.json`. DataError (65) when a set
    with a text of its own holds documents that an earlier stage was trained on.
    """
    sets = dict(pins.sets)
    own = {pin.digest for pin in sets.values()}
    folders = [work]
    if lineage.stages:
        folders.append(_parent(pins.base_model, snapshot, manifest_root(work), cache))
    for name, each, stage in lineage.sets():
        if each.digest in own:
            continue
        problem = _bring(each, stage, pins, folders, cache)
        if problem:
            lineage.missing.append({"set": name, "stage": each.origin.run, "why": problem})
            warn(f"set {name!r} of the earlier stage {each.origin.run} is not scored: {problem}")
            continue
        chosen = free_name(name, each.origin, set(sets))
        sets[chosen] = SetPin(
            digest=each.digest,
            prepared=each.prepared,
            documents=each.documents,
            tokens=each.tokens,
            inherited=each.origin,
        )
    complete = pins.model_copy(update={"sets": sets})
    lineage.seen = _seen(lineage, complete, prepared, snapshot, cache, warn)
    if lineage.stages:
        write_json(work.state / "chain.json", lineage.to_json())
    return complete


def keep_sets(work: WorkFolder, pins: Pins, cache: Path) -> None:
    """The documents of every set beside the run: who continues it needs them, wherever the cache went."""
    for pin in pins.sets.values():
        folder = folder_of(pin.prepared, "sets", cache)
        if folder.is_dir():
            _copy(folder, work.state / "sets" / folder.name)


def restore_sets(work: WorkFolder, pins: Pins, cache: Path) -> None:
    """The sets of earlier stages back into a cache that lost them; this run's own are prepared again."""
    for pin in pins.sets.values():
        folder = folder_of(pin.prepared, "sets", cache)
        kept = work.state / "sets" / folder.name
        if pin.inherited and kept.is_dir():
            _copy(kept, folder)


def free_name(name: str, origin: Inherited, taken: set[str]) -> str:
    """The set's name as long as that is free; else with the name of the stage that introduced it before it."""
    if name not in taken:
        return name
    whole = f"{origin.run}-{origin.name}"
    candidates = [whole[:NAME_LENGTH].rstrip("-")]
    candidates += [f"{whole[: NAME_LENGTH - 3].rstrip('-')}-{number}" for number in range(2, 100)]
    return next(each for each in candidates if each not in taken)


def _bring(each: StageSet, stage: Stage, pins: Pins, folders: list[WorkFolder], cache: Path) -> str:
    """The documents of a set into the cache; returns why that cannot be done, or nothing."""
    if stage.tokenizer != pins.tokenizer:
        return "it was tokenised by another tokenizer or with another documentStart"
    folder = folder_of(each.prepared, "sets", cache)
    for place in folders:
        kept = place.state / "sets" / folder.name
        if kept.is_dir() and not folder.is_dir():
            _copy(kept, folder)
    if not folder.is_dir():
        shared_cache(cache, stage.cache_uri).fetch(folder)
    return "" if folder.is_dir() else "its documents are gone from the cache and from that run's folder"


def _copy(source: Path, target: Path) -> None:
    def fill(place: Path) -> None:
        for path in source.iterdir():
            if path.is_file():
                shutil.copyfile(path, place / path.name)

    publish_folder(target, fill)


def _seen(
    lineage: Lineage, pins: Pins, prepared: Prepared, snapshot: Snapshot, cache: Path, warn: Warn
) -> list[dict[str, Any]]:
    """Which sets hold documents that some stage of the lineage, this run included, has in its training text."""
    hashes = {name: open_set(folder_of(pin.prepared, "sets", cache)).hashes for name, pin in pins.sets.items()}
    inherited = {name for name, pin in pins.sets.items() if pin.inherited}
    found = []
    for name, folder in prepared.source_folders.items():
        found += _overlaps({each: hashes[each] for each in inherited}, folder / TEXTS, snapshot.name, name)
    unknown: dict[str, list[str]] = {}
    for stage in lineage.stages:
        mirror = shared_cache(cache, stage.cache_uri)
        for name, address in stage.sources.items():
            texts = mirror.fetch_file(folder_of(address, "sources", cache), TEXTS)
            if texts is None:
                unknown.setdefault(stage.name, []).append(name)
                continue
            found += _overlaps(hashes, texts, stage.name, name)
    for stage_name, names in unknown.items():
        warn(
            f"whether stage {stage_name} was trained on evaluation text of this run is not known: its prepared "
            f"{', '.join(names)} lists no documents"
        )
    _refuse_own(found, snapshot)
    for each in found:
        warn(
            f"evaluation set {each['set']!r}: {each['documents']} of its documents stand in the training text of "
            f"source {each['source']!r} of stage {each['stage']}: what is measured on it is partly trained on"
        )
    return found


def _overlaps(hashes: Mapping[str, list[str]], texts: Path, stage: str, source: str) -> list[dict[str, Any]]:
    if not texts.exists():
        return []
    counts = {name: count_seen(texts, each) for name, each in hashes.items()}
    return [
        {"set": name, "stage": stage, "source": source, "documents": count} for name, count in counts.items() if count
    ]


def _refuse_own(found: list[dict[str, Any]], snapshot: Snapshot) -> None:
    """A set that somebody wrote down can be cleaned by them; held-out text and earlier sets are only named."""
    given = {each.name for each in snapshot.evaluation.sets if each.uri is not None}
    wrong = [each for each in found if each["set"] in given]
    if wrong:
        raise DataError(
            "; ".join(
                f"evaluation set {each['set']!r}: {each['documents']} of its documents stand in the training text of "
                f"source {each['source']!r} of {each['stage']}, an earlier stage of this run's base"
                for each in wrong
            )
            + "; take them out of the set, or continue a base that has not seen them"
        )
