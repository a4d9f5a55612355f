"""From a snapshot to token shards, evaluation sets and pins. Runs once per run; needs no torch and no GPU.

    uri -> files -> scan (duplicates, hold-out) -> tokenizer -> shards and sets -> pins (counts, digests, plan)

Everything lands in a content-addressed cache, so preparation is found again rather than made again. Given the pins of
an earlier preparation it only accepts the same text (65 names both digests).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rewarm_api.errors import DataError, ManifestError, Problem
from rewarm_api.pins import Pins, SourcePin
from rewarm_api.snapshot import EvaluationSet, Format, Group, Snapshot, Source
from rewarm_trainer.corpus.imported import import_tokens
from rewarm_trainer.corpus.inputs import expand, with_formats
from rewarm_trainer.corpus.mirror import Mirror
from rewarm_trainer.corpus.overlap import overlaps
from rewarm_trainer.corpus.pins import earlier_pin, make_pins, set_pin, source_pin
from rewarm_trainer.corpus.readers import Fields
from rewarm_trainer.corpus.scan import Progress, SourceScan, corpus_digest, scan_files, select
from rewarm_trainer.corpus.scores import prepare_scores
from rewarm_trainer.corpus.scratch import scratch_tokenizer
from rewarm_trainer.corpus.selection import Rule
from rewarm_trainer.corpus.sets import EvaluationDocuments, largest_id, open_set
from rewarm_trainer.corpus.shards import Index, write_index
from rewarm_trainer.corpus.source import Rows, SubsetSource, open_source
from rewarm_trainer.corpus.subset import SubsetRule
from rewarm_trainer.corpus.tokenise import tokenise
from rewarm_trainer.corpus.tokenizer import TokenizerHandle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What training needs: opened by name, with the pins that say what it is."""

    pins: Pins
    tokenizer: TokenizerHandle
    source_folders: dict[str, Path]
    set_folders: dict[str, Path]
    warnings: tuple[str, ...]
    sequence_length: int
    earlier: Mapping[str, SubsetSource] = field(default_factory=dict)

    def sources(self) -> dict[str, Rows]:
        """Every source by name, rows of an earlier run included."""
        opened: dict[str, Rows] = {
            name: open_source(folder, name, self.sequence_length) for name, folder in self.source_folders.items()
        }
        return {**opened, **self.earlier}

    def sets(self) -> dict[str, EvaluationDocuments]:
        """Every evaluation set by name."""
        return {name: open_set(folder, name) for name, folder in self.set_folders.items()}


@dataclass
class Preparation:
    """One preparation under way: where it reads, where it writes, whom it tells."""

    snapshot: Snapshot
    root: Path
    cache: Path
    progress: Progress
    shared_uri: str | None = None
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def mirror(self) -> Mirror:
        return shared_cache(self.cache, self.shared_uri or self.snapshot.cache_uri or "")

    def warn(self, message: str) -> None:
        log.warning(message)
        self.warnings.append(message)

    def scan_source(self, source: Source) -> SourceScan:
        """Scans one source, checks its pin, and cuts the held-out part unless its set has a text of its own."""
        files = with_formats(expand(source.uri, self.root), source.format)
        fields = Fields(source.text_field, source.group_field, score=source.score_field)
        units = scan_files(source.name, files, fields, source.bad_lines, self.cache, self.progress)
        check_pin(source.name, source.digest, corpus_digest(units), "spec's digest")
        own = self.set_of(source.name)
        rule = None if own and own.uri else Rule.of(self.snapshot.evaluation.held_out)
        subset = SubsetRule.of(source.subset) if source.subset else None
        scan = select(source.name, units, fields, self.cache, rule=rule, subset=subset)
        if subset and not scan.left_out:
            self.warn(f"source {source.name!r}: its subset is all of it, {scan.documents} documents; ask for less")
        if scan.duplicates:
            log.info("source %r: dropped %d exact duplicates", source.name, scan.duplicates)
        if rule and scan.held_out < rule.minimum_documents:
            self.warn(
                f"source {source.name!r}: held out {scan.held_out} of {scan.documents + scan.held_out} documents, "
                f"heldOut.minimumDocuments asks for {rule.minimum_documents}; no more than a fifth is ever held out"
            )
        if own and not own.uri:
            return replace(scan, fields=replace(fields, label=own.label_field, date=own.date_field))
        return scan

    def set_of(self, name: str) -> EvaluationSet | None:
        return next((each for each in self.snapshot.evaluation.sets if each.name == name), None)

    def scan_set(self, given: EvaluationSet) -> SourceScan:
        """Scans a set with a uri of its own: every document, in order of its files."""
        assert given.uri is not None
        files = with_formats(expand(given.uri, self.root), given.format)
        fields = Fields(given.text_field)
        units = scan_files(given.name, files, fields, 0, self.cache, self.progress)
        scan = select(given.name, units, fields, self.cache, rule=None, every=True)
        return replace(scan, fields=replace(fields, label=given.label_field, date=given.date_field))

    def check_overlap(self, sets: Mapping[str, SourceScan], sources: Mapping[str, SourceScan]) -> None:
        """DataError (65) when a set with a text of its own holds training text; a warning for held-out documents
        of one source that another source trains on."""
        found = overlaps(sets, sources)
        if found:
            raise DataError(
                "; ".join(
                    f"evaluation set {name!r}: {count} of its documents stand in the training text of source {source!r}"
                    for name, source, count in found
                )
                + "; take them out of one or the other"
            )
        for name, source, count in overlaps(sources, sources):
            self.warn(
                f"{count} documents held out of source {name!r} stand in the training text of source {source!r}: "
                f"what is measured on set {name!r} is partly trained on"
            )


def shared_cache(cache: Path, uri: str) -> Mirror:
    """The cache that machines share, where `uri` is a bucket or a claim; else one that holds nothing."""
    # storage.py itself stands on this package's publish.py.
    from rewarm_trainer.storage import open_storage

    return Mirror(cache, open_storage(uri, root=cache) if uri.startswith(("s3://", "claim://")) else None)


def check_pin(name: str, pinned: str | None, found: str, whose: str) -> None:
    """DataError (65) when a corpus is not the one that was pinned."""
    if pinned is not None and pinned != found:
        raise DataError(
            f"source {name!r}: its files have digest {found}, {whose} expects {pinned}; restore the files, or change "
            "the pin in a new run"
        )


def check_pins(pins: Pins | None, digests: Mapping[str, str]) -> None:
    """DataError (65) when a source is not the one that an earlier preparation of this run pinned."""
    for name, digest in digests.items() if pins is not None else ():
        check_pin(name, pins.sources[name].digest if pins and name in pins.sources else None, digest, "pins.json")


def prepare(
    snapshot: Snapshot,
    *,
    root: Path,
    cache: Path,
    tokenizer: TokenizerHandle | None,
    fresh_tokenizer: Path | None = None,
    progress: Progress = lambda *_: None,
    base_model: Mapping[str, Any] | None = None,
    pins: Pins | None = None,
    earlier: Mapping[str, SubsetSource] | None = None,
    shared_uri: str | None = None,
) -> Prepared:
    """Prepares every source and set of a snapshot.

    `root`: folder of the manifest. `tokenizer`: that of the base model; None trains one on the training text and
    copies it to `fresh_tokenizer`. `base_model` goes into the pins. `pins`: an earlier preparation of this run, whose
    text is expected again. `earlier`: replay sources that are rows of an earlier run (`replay.fromRun`), by name.
    `shared_uri`: where the shared cache is, if not where the snapshot says.
    Raises DataError (65), MissingInputError (66), ManifestError (64), DependencyError (75).
    """
    work = Preparation(snapshot, root.absolute(), cache.absolute(), progress, shared_uri)
    check_sets(snapshot)
    scans = {each.name: work.scan_source(each) for each in snapshot.sources if each.format is not Format.TOKENS}
    set_scans = {each.name: work.scan_set(each) for each in snapshot.evaluation.sets if each.uri is not None}
    check_pins(pins, {name: scan.digest for name, scan in scans.items()})
    work.check_overlap(set_scans, scans)
    handle = tokenizer or scratch_tokenizer(snapshot, scans, work.root, work.cache, progress, work.mirror)
    if pins is not None and pins.tokenizer != handle.fingerprint:
        raise DataError(
            f"{handle.folder}: the tokenizer has fingerprint {handle.fingerprint}, pins.json expects {pins.tokenizer}; "
            "restore the tokenizer's files, or start over in a new work folder"
        )
    if tokenizer is None and fresh_tokenizer is not None:
        handle.save(fresh_tokenizer)
    sources, sets, digests = tokenise_all(work, scans, set_scans, handle)
    check_pins(pins, digests)
    length = snapshot.training.sequence_length
    counted = {
        each.name: source_pin(
            open_source(sources[each.name], each.name, length), scans.get(each.name), digests[each.name], each.weight
        )
        for each in snapshot.sources
    }
    counted = with_scores(work, scans, counted)
    counted.update({name: earlier_pin(source) for name, source in (earlier or {}).items()})
    every_scan = {**scans, **set_scans}
    set_pins = {name: set_pin(folder, every_scan[name].held_out_digest) for name, folder in sets.items()}
    pinned = make_pins(snapshot, handle, counted, set_pins, base_model or {}, work.warn)
    return Prepared(pinned, handle, sources, sets, tuple(work.warnings), length, dict(earlier or {}))


def with_scores(work: Preparation, scans: Mapping[str, SourceScan], pins: dict[str, SourcePin]) -> dict[str, SourcePin]:
    """The pins, those of the corpus with the scores that ascending phases order by."""
    columns = sorted({phase.order_by for phase in work.snapshot.phases if phase.order_by})
    result = dict(pins)
    for source in work.snapshot.group(Group.CORPUS) if columns else ():
        found = {
            column: prepare_scores(scans[source.name], column, work.cache, work.progress, work.mirror)
            for column in columns
        }
        result[source.name] = pins[source.name].model_copy(update={"scores": found})
    return result


def check_sets(snapshot: Snapshot) -> None:
    """ManifestError (64) for a set that would have to be cut from token shards: they hold no text."""
    formats = {source.name: source.format for source in snapshot.sources}
    for number, each in enumerate(snapshot.evaluation.sets):
        if each.uri is None and formats.get(each.name) is Format.TOKENS:
            raise ManifestError(
                Problem(
                    f"spec.evaluation.sets[{number}]",
                    f"set {each.name!r} without a uri, its source has the format Tokens",
                    "a set with a uri of its own: token shards hold no text to hold out",
                    "give the set a uri, or list other sets",
                )
            )


def tokenise_all(
    work: Preparation, scans: Mapping[str, SourceScan], sets: Mapping[str, SourceScan], tokenizer: TokenizerHandle
) -> tuple[dict[str, Path], dict[str, Path], dict[str, str]]:
    """Folders of all sources, folders of all sets, and the digest of each source's files."""
    sources: dict[str, Path] = {}
    found: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for source in work.snapshot.sources:
        if source.name in scans:
            own, scan = work.set_of(source.name), scans[source.name]
            aside = own is not None and own.uri is None
            folder, held_out = tokenise(scan, tokenizer, work.cache, work.progress, work.mirror, held_out=aside)
            digests[source.name] = scans[source.name].digest
            if held_out is not None:
                found[source.name] = held_out
        else:
            tokens = import_tokens(source, work.root, work.cache, tokenizer, work.progress)
            folder, digests[source.name] = tokens.folder, tokens.digest
            check_pin(source.name, source.digest, tokens.digest, "spec's digest")
        assert folder is not None
        describe(folder, source, digests[source.name], work.snapshot.training.sequence_length)
        sources[source.name] = folder
    for name, scan in sets.items():
        folder = tokenise(scan, tokenizer, work.cache, work.progress, work.mirror, train=False, held_out=True)[1]
        assert folder is not None
        found[name] = folder
    return sources, found, digests


def describe(folder: Path, source: Source, digest: str, sequence_length: int) -> None:
    """Brings rows, licence and source digest in index.json up to this preparation; the shards stay as they are."""
    index = Index.read(folder)
    current = replace(index.at(sequence_length), license=source.license, digest=digest)
    if current != index:
        write_index(folder, current)


def check_embedding(prepared: Prepared, rows: int) -> None:
    """DataError (65) when an id in shards or sets lies outside an embedding of `rows` rows."""
    ids = {f"source {name!r}": Index.read(folder).largest_id for name, folder in prepared.source_folders.items()}
    ids.update({f"evaluation set {name!r}": largest_id(folder) for name, folder in prepared.set_folders.items()})
    for what, largest in ids.items():
        if largest >= rows:
            raise DataError(
                f"{what}: holds token id {largest}, the model's embedding has rows 0 to {rows - 1}; use the tokenizer "
                "that belongs to the base model"
            )
