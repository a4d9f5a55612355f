"""First stage of preparation: what documents are there, which are duplicates, which are held out. Knows no tokenizer.

Every input file is read once and remembered under the sha256 of its bytes, so a second run on the same files parses
nothing and a killed one goes on with the next file. The bytes themselves are always read again: size and time of
a local file are not trusted, because a pin is a promise about content. (Objects in S3 are trusted by their entity tag,
rows of the Hugging Face Hub by their commit: both change with the content.)
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus import pool
from rewarm_trainer.corpus.fetch import content_digest, documents_of, fetched, known_digest, remember_digest
from rewarm_trainer.corpus.inputs import InputFile
from rewarm_trainer.corpus.readers import Advance, Broken, BrokenFile, Fields
from rewarm_trainer.corpus.records import HELD_OUT, RECORD, TRAIN, digest_bytes, record_of
from rewarm_trainer.corpus.selection import Rule, chunks, hold_out, mark_duplicates
from rewarm_trainer.corpus.subset import SubsetRule, leave_out
from rewarm_trainer.files import publish_folder, write_json

VERSION = 1
TEXT_UNIT_BYTES = 1 << 20
TEXT_UNIT_FILES = 1024
FLUSH_BYTES = 1 << 20
LIGHTNESS = 8
SCORES = "scores.bin"

log = logging.getLogger(__name__)

Progress = Callable[[str, str, int, int, str], None]
"""progress(stage, source, done, total, unit): done and total in `unit`."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One tolerated line: `file` is the index within its unit."""

    file: int
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnitScan:
    """What a unit of work (one file; small texts together) holds. `folder` has its records."""

    files: tuple[InputFile, ...]
    digests: tuple[str, ...]
    folder: Path
    documents: int
    grouped: int
    bad: tuple[Bad, ...]

    def records(self) -> np.ndarray:
        if not self.documents:
            return np.empty(0, dtype=RECORD)
        return np.memmap(self.folder / "records.bin", dtype=RECORD, mode="r", shape=(self.documents,))

    def scores(self) -> np.ndarray:
        """Quality of each document, float64; only of a scan that read a score field."""
        return np.fromfile(self.folder / SCORES, dtype="<f8")


@dataclass(frozen=True)
class SourceScan:
    """What a source holds after deduplication and hold-out; everything that rows and digests follow from."""

    name: str
    digest: str
    fields: Fields
    units: tuple[UnitScan, ...]
    selection: Path
    documents: int
    duplicates: int
    held_out: int
    bad_lines: int
    text_digest: str
    held_out_digest: str
    left_out: int = 0

    def mask(self) -> np.ndarray:
        """TRAIN, DUPLICATE, HELD_OUT or LEFT_OUT for each document, in order."""
        return np.fromfile(self.selection / "mask.bin", dtype=np.uint8)

    def held_out_positions(self) -> np.ndarray:
        """Held-out documents in their order of evaluation."""
        positions: np.ndarray = np.load(self.selection / "held_out.npy")
        return positions

    def records(self) -> Iterator[tuple[int, np.ndarray]]:
        """(position, records) in bounded chunks over the whole source."""
        return chunks([unit.records() for unit in self.units])


def units_of(files: Sequence[InputFile]) -> list[tuple[InputFile, ...]]:
    """Units of work: one file each, but small texts (one file is one document) up to 1 MiB together."""
    result: list[list[InputFile]] = []
    room, places = 0, 0
    for file in files:
        if file.format == "Text" and result and places > 0 and file.size <= room:
            result[-1].append(file)
        else:
            result.append([file])
            room, places = (TEXT_UNIT_BYTES, TEXT_UNIT_FILES) if file.format == "Text" else (0, 0)
        room, places = room - file.size, places - 1
    return [tuple(unit) for unit in result]


def scan_unit(files: tuple[InputFile, ...], fields: Fields, tolerated: int, cache: Path, advance: Advance) -> UnitScan:
    """Reads a unit, or finds what an earlier run read. Runs in a worker.

    Raises DataError (65), naming file and line, as soon as more than `tolerated` documents are broken.
    """
    stamps = [stamp_of(file) for file in files]
    digests = [known_digest(file, cache) for file in files]
    if not all(digests):
        for index, file in enumerate(files):
            if not digests[index] and not file.uri.startswith("hf://"):
                with fetched(file, cache) as path:
                    digests[index] = content_digest(path)
                remember_digest(file, digests[index], cache)
    identity = [digest or f"{file.uri} {file.version}" for file, digest in zip(files, digests, strict=True)]
    key = digest_of([VERSION, [file.format for file in files], names_of(fields), identity]).removeprefix("sha256:")
    folder = cache / "scans" / key[:2] / key
    if folder.is_dir():
        advance(sum(file.size for file in files))

    def fill(place: Path) -> None:
        read_unit(files, fields, tolerated, cache, advance, place)
        for file, stamp in zip(files, stamps, strict=True):
            if stamp_of(file) != stamp:
                raise DataError(f"{file.uri}: changed while it was read; let its writer finish, then start again")

    publish_folder(folder, fill)
    found = json.loads((folder / "unit.json").read_text())
    bad = tuple(Bad(*entry) for entry in found["bad"])
    digests = [digest or whole for digest, whole in zip(digests, found["texts"], strict=True)]
    return UnitScan(files, tuple(digests), folder, found["documents"], found["grouped"], bad)


def names_of(fields: Fields) -> dict[str, str]:
    """The fields read, as part of a scan's key; a source without scores keeps the key that it had before there were."""
    return {key: name for key, name in asdict(fields).items() if name or key != "score"}


def stamp_of(file: InputFile) -> tuple[int, int] | None:
    """Size and time of a local file: good enough to notice a writer at work, never to know content."""
    if file.local is None or not file.local.exists():
        return None
    status = file.local.stat()
    return status.st_size, status.st_mtime_ns


def read_unit(
    files: tuple[InputFile, ...], fields: Fields, tolerated: int, cache: Path, advance: Advance, place: Path
) -> None:
    """Writes `records.bin` and `unit.json` of a unit into `place`."""
    documents = grouped = 0
    bad: list[Bad] = []
    texts = []
    scores = array("d")
    with (place / "records.bin").open("wb", buffering=FLUSH_BYTES) as stream:
        for index, file in enumerate(files):
            whole = sha256()
            try:
                for entry in documents_of(file, fields, cache, advance):
                    if isinstance(entry, Broken):
                        bad.append(Bad(index, entry.line, entry.reason))
                        if len(bad) > tolerated:
                            raise DataError(too_many(file, bad[-1], tolerated))
                        continue
                    record = record_of(entry)
                    stream.write(record)
                    whole.update(record[:32])
                    documents += 1
                    if entry.score is not None:
                        scores.append(entry.score)
                    grouped += entry.group is not None
            except BrokenFile as error:
                raise DataError(f"{file.uri}: {error}; repair the file or take it out of the source") from error
            texts.append(whole.hexdigest())
    if fields.score:
        np.asarray(scores, dtype="<f8").tofile(place / SCORES)
    write_json(
        place / "unit.json",
        {"documents": documents, "grouped": grouped, "bad": [[*asdict(each).values()] for each in bad], "texts": texts},
    )


def too_many(file: InputFile, bad: Bad, tolerated: int) -> str:
    return (
        f"{file.uri}, line {bad.line}: {bad.reason}; expected at most badLines: {tolerated} broken lines or documents "
        "in this source; repair the line, or raise badLines"
    )


def corpus_digest(units: Sequence[UnitScan]) -> str:
    """Source digest: sha256 over the canonical JSON of the sorted list of [relative path, sha256 of file]."""
    pairs = [[file.relative, digest] for unit in units for file, digest in zip(unit.files, unit.digests, strict=True)]
    return digest_of(sorted(pairs))


def scan_files(
    name: str, files: Sequence[InputFile], fields: Fields, tolerated: int, cache: Path, progress: Progress
) -> tuple[UnitScan, ...]:
    """Scans all files of a source, in parallel. Raises DataError for broken data or when no document is there."""
    total = sum(file.size for file in files)
    units = units_of(files)
    arguments = [(unit, fields, tolerated, cache) for unit in units]
    progress("scan", name, 0, total, "bytes")
    found: list[UnitScan] = pool.run_all(
        scan_unit,
        arguments,
        workers=pool.worker_count(len(units), total, LIGHTNESS),
        report=lambda done: progress("scan", name, min(done, total), total, "bytes"),
    )
    progress("scan", name, total, total, "bytes")
    broken = [(unit.files[bad.file], bad) for unit in found for bad in unit.bad]
    for file, bad in broken:
        log.warning("%s, line %d: %s; left out (tolerated by badLines: %d)", file.uri, bad.line, bad.reason, tolerated)
    if len(broken) > tolerated:
        raise DataError(too_many(*broken[tolerated], tolerated))
    check_documents(name, files, fields, found)
    return tuple(found)


def check_documents(name: str, files: Sequence[InputFile], fields: Fields, units: Sequence[UnitScan]) -> None:
    if not any(unit.documents for unit in units):
        raise DataError(
            f"source {name!r} is empty: found 0 documents in {len(files)} file(s) ({files[0].uri}"
            f"{', ...' if len(files) > 1 else ''}), expected at least one; correct its uri or textField"
        )
    if fields.group and not any(unit.grouped for unit in units):
        raise DataError(
            f"source {name!r}: no document has the groupField {fields.group!r}; correct the name or leave it out"
        )


def select(
    name: str,
    units: tuple[UnitScan, ...],
    fields: Fields,
    cache: Path,
    *,
    rule: Rule | None,
    every: bool = False,
    subset: SubsetRule | None = None,
) -> SourceScan:
    """Deduplicates and holds out (not without a `rule`); `every` takes all documents as held out, in their order.
    `subset` then leaves out a part of what is left to train on.

    The outcome depends on the units and the rule alone and is kept in the cache under their digest.
    """
    ruling = [str(rule.fraction), rule.minimum_documents, rule.maximum_tokens] if rule else every
    ruling = [ruling, subset.to_json()] if subset else ruling
    key = digest_of([VERSION, [unit.folder.name for unit in units], ruling]).removeprefix("sha256:")
    folder = cache / "selections" / key[:2] / key
    scores = np.concatenate([unit.scores() for unit in units]) if subset and fields.score else None
    publish_folder(
        folder, lambda place: write_selection([unit.records() for unit in units], place, rule, every, subset, scores)
    )
    counts = json.loads((folder / "selection.json").read_text())
    bad_lines = sum(len(unit.bad) for unit in units)
    return SourceScan(
        name=name,
        digest=corpus_digest(units),
        fields=fields,
        units=units,
        selection=folder,
        bad_lines=bad_lines,
        **counts,
    )


def write_selection(
    pieces: list[np.ndarray],
    place: Path,
    rule: Rule | None,
    every: bool,
    subset: SubsetRule | None = None,
    scores: np.ndarray | None = None,
) -> None:
    mask = np.full(sum(len(piece) for piece in pieces), HELD_OUT if every else TRAIN, dtype=np.uint8)
    positions, duplicates = np.arange(len(mask) if every else 0, dtype=np.int64), 0
    if not every:
        duplicates = mark_duplicates(pieces, mask, place)
    if rule:
        positions = hold_out(pieces, mask, rule)
    left_out = leave_out(pieces, mask, subset, scores) if subset else 0
    mask.tofile(place / "mask.bin")
    np.save(place / "held_out.npy", positions)
    training, held_out = digests_of(pieces, mask, positions)
    counts = {
        "documents": int(np.count_nonzero(mask == TRAIN)),
        "duplicates": duplicates,
        "held_out": len(positions),
        "text_digest": training,
        "held_out_digest": held_out,
        **({"left_out": left_out} if subset else {}),
    }
    write_json(place / "selection.json", counts)


def digests_of(pieces: list[np.ndarray], mask: np.ndarray, positions: np.ndarray) -> tuple[str, str]:
    """sha256 over the documents' sha256 (32 bytes each): training text in order, held-out text in order of key."""
    training = sha256()
    held_out = np.empty((len(positions), 4), dtype=">u8")
    order = np.argsort(positions)
    for start, part in chunks(pieces):
        marks = mask[start : start + len(part)]
        training.update(digest_bytes(part["text"][marks == TRAIN]))
        here = order[np.searchsorted(positions[order], start) : np.searchsorted(positions[order], start + len(part))]
        held_out[here] = part["text"][positions[here] - start]
    return "sha256:" + training.hexdigest(), "sha256:" + sha256(digest_bytes(held_out)).hexdigest()
