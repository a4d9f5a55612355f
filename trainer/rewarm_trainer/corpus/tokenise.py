"""Second stage of preparation: the selected documents to token shards and evaluation sets.

One piece per unit of work, published whole: a killed run goes on with the next unit. Pieces are joined in order of
name, so the stream does not depend on how many processes made it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus import pool
from rewarm_trainer.corpus.fetch import content_digest, documents_of
from rewarm_trainer.corpus.inputs import InputFile
from rewarm_trainer.corpus.mirror import Mirror
from rewarm_trainer.corpus.readers import Advance, Broken, BrokenFile, Document, Fields
from rewarm_trainer.corpus.records import HELD_OUT, TRAIN
from rewarm_trainer.corpus.scan import Progress, SourceScan, UnitScan
from rewarm_trainer.corpus.sets import SetDocument, write_set
from rewarm_trainer.corpus.shards import Index, ShardWriter, blocks, dtype_for, stored, write_index
from rewarm_trainer.corpus.texts import write_texts
from rewarm_trainer.corpus.tokenizer import TokenizerHandle
from rewarm_trainer.files import publish_folder, write_json

log = logging.getLogger(__name__)

VERSION = 1
BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1024

Lot = list[tuple[int, int, Document]]
"""Position in the unit, mark and document, of documents that are encoded together."""


def source_address(scan: SourceScan, tokenizer: TokenizerHandle) -> str:
    """Content address of a source's shards: the same training text and the same tokenizer give the same folder."""
    return digest_of(["source", VERSION, scan.text_digest, tokenizer.fingerprint, tokenizer.bos])


def set_address(scan: SourceScan, tokenizer: TokenizerHandle) -> str:
    """Content address of a set: its documents in order, the fields read beside the text, and the tokenizer."""
    beside = [scan.fields.label, scan.fields.date]
    where = [unit.folder.name for unit in scan.units] if any(beside) else []
    return digest_of(["set", VERSION, scan.held_out_digest, beside, where, tokenizer.fingerprint])


def folder_of(address: str, kind: str, cache: Path) -> Path:
    name = address.removeprefix("sha256:")
    return cache / kind / name[:2] / name


@dataclass(frozen=True, slots=True)
class Work:
    """One unit's part of tokenisation. `mask` marks the unit's documents; wanted are those marked `wanted`."""

    unit: UnitScan
    fields: Fields
    selection: Path
    first: int
    wanted: tuple[int, ...]
    place: Path


def chosen_documents(work: Work, cache: Path, advance: Advance) -> Iterator[tuple[int, int, Document]]:
    """(position in the unit, mark, document) of the unit's wanted documents, in order.

    Raises DataError (65) when a file is no longer what was scanned.
    """
    mask: Any = np.memmap(work.selection / "mask.bin", dtype=np.uint8, mode="r") if work.unit.documents else ()
    position = 0
    for file, digest in zip(work.unit.files, work.unit.digests, strict=True):
        if file.local is not None and content_digest(file.local) != digest:
            raise DataError(changed(file))
        try:
            for entry in documents_of(file, work.fields, cache, advance):
                if isinstance(entry, Broken):
                    continue
                if position >= work.unit.documents:
                    raise DataError(changed(file))
                if int(mask[work.first + position]) in work.wanted:
                    yield position, int(mask[work.first + position]), entry
                position += 1
        except BrokenFile as error:
            raise DataError(f"{file.uri}: {error}; repair the file or take it out of the source") from error
    if position != work.unit.documents:
        raise DataError(changed(work.unit.files[-1]))


def changed(file: InputFile) -> str:
    return f"{file.uri}: changed while it was prepared; expected the bytes that were scanned; start again"


def batches(entries: Iterator[tuple[int, int, Document]]) -> Iterator[Lot]:
    """Documents in lots of bounded size."""
    lot: Lot = []
    size = 0
    for entry in entries:
        lot.append(entry)
        size += len(entry[2].text)
        if size >= BATCH_CHARACTERS or len(lot) >= BATCH_DOCUMENTS:
            yield lot
            lot, size = [], 0
    if lot:
        yield lot


def encoded_lots(lots: Iterator[Lot], tokenizer: TokenizerHandle) -> Iterator[tuple[Lot, list[list[int]]]]:
    """Each lot with its ids, in order. The next one is read, and the last one dealt with, while one is encoded: the
    library lets go of the interpreter meanwhile."""
    with ThreadPoolExecutor(1, "encode") as thread:
        held: tuple[Lot, Future[list[list[int]]]] | None = None
        for lot in lots:
            begun = thread.submit(tokenizer.encode_batch, [document.text for _, _, document in lot])
            if held is not None:
                yield held[0], held[1].result()
            held = (lot, begun)
        if held is not None:
            yield held[0], held[1].result()


def tokenise_unit(work: Work, tokenizer: TokenizerHandle, cache: Path, advance: Advance) -> int:
    """Writes a unit's piece unless an earlier run did. Returns the number of its training tokens. Runs in a worker."""
    if work.place.is_dir():
        advance(sum(file.size for file in work.unit.files))

    def fill(place: Path) -> None:
        write_piece(work, tokenizer, cache, advance, place)

    publish_folder(work.place, fill)
    return int(json.loads((work.place / "piece.json").read_text())["tokens"])


def write_piece(work: Work, tokenizer: TokenizerHandle, cache: Path, advance: Advance, place: Path) -> None:
    """`train.bin` (documents framed by BOS and EOS), `held_out.bin` (bare documents) and `piece.json`."""
    dtype = dtype_for(tokenizer.largest_id)
    before = [] if tokenizer.bos is None else [tokenizer.bos]
    tokens, held_out = 0, []
    with (place / "train.bin").open("wb") as training, (place / "held_out.bin").open("wb") as aside:
        for lot, encoded in encoded_lots(batches(chosen_documents(work, cache, advance)), tokenizer):
            for (position, mark, document), ids in zip(lot, encoded, strict=True):
                if mark == TRAIN:
                    framed = [*before, *ids, tokenizer.eos]
                    training.write(stored(framed, dtype))
                    tokens += len(framed)
                else:
                    aside.write(stored(ids, dtype))
                    held_out.append([position, len(ids), document.label, document.date])
    write_json(place / "piece.json", {"tokens": tokens, "held_out": held_out})


def tokenise(
    scan: SourceScan,
    tokenizer: TokenizerHandle,
    cache: Path,
    progress: Progress,
    mirror: Mirror,
    *,
    train: bool = True,
    held_out: bool,
) -> tuple[Path | None, Path | None]:
    """Shards of the training part and the set of the held-out part, found again or made. Returns their folders."""
    source = folder_of(source_address(scan, tokenizer), "sources", cache) if train else None
    documents = folder_of(set_address(scan, tokenizer), "sets", cache) if held_out else None
    for folder in (source, documents):
        mirror.fetch(folder)
    if source is not None and source.is_dir():
        write_texts(scan, source)
    if missing(source, documents):
        task = digest_of([str(source and source.name), str(documents and documents.name), scan.selection.name])
        workspace = folder_of(task, "work", cache)
        # Another run may prepare the same text this moment: who comes second finds what the first one made.
        with alone(workspace.with_suffix(".lock")):
            make(scan, tokenizer, cache, progress, workspace, source, documents)
        for folder in (source, documents):
            mirror.store(folder)
    return source, documents


def missing(source: Path | None, documents: Path | None) -> tuple[int, ...]:
    """Marks of the documents that have yet to be tokenised."""
    folders = ((TRAIN, source), (HELD_OUT, documents))
    return tuple(int(mark) for mark, folder in folders if folder is not None and not folder.is_dir())


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until no other process on this machine holds `lock`; one that is killed lets go of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    holding = FileLock(lock)
    try:
        holding.acquire(blocking=False)
    except Timeout:
        log.info("another run prepares the same text: waiting for it")
        holding.acquire()
    try:
        yield
    finally:
        holding.release()


def make(
    scan: SourceScan,
    tokenizer: TokenizerHandle,
    cache: Path,
    progress: Progress,
    workspace: Path,
    source: Path | None,
    documents: Path | None,
) -> None:
    """Shards and set, as far as they are not there, by way of one piece a unit in `workspace`."""
    wanted = missing(source, documents)
    if not wanted:
        return
    works = list(works_of(scan, wanted, workspace / "-".join(map(str, wanted))))
    total = sum(file.size for unit in scan.units for file in unit.files)
    progress("tokenise", scan.name, 0, total, "bytes")
    pool.run_all(
        tokenise_unit,
        [(work, tokenizer, cache) for work in works],
        workers=pool.worker_count(len(works), total),
        report=lambda done: progress("tokenise", scan.name, min(done, total), total, "bytes"),
    )
    progress("tokenise", scan.name, total, total, "bytes")
    if source is not None:
        publish_folder(source, lambda place: join_source(scan, works, tokenizer, place))
    if documents is not None:
        publish_folder(documents, lambda place: join_set(scan, works, tokenizer, place))
    shutil.rmtree(workspace, ignore_errors=True)


def works_of(scan: SourceScan, wanted: tuple[int, ...], workspace: Path) -> Iterator[Work]:
    first = 0
    for number, unit in enumerate(scan.units):
        yield Work(unit, scan.fields, scan.selection, first, wanted, workspace / f"{number:06d}")
        first += unit.documents


def join_source(scan: SourceScan, works: list[Work], tokenizer: TokenizerHandle, place: Path) -> None:
    dtype = dtype_for(tokenizer.largest_id)
    with ShardWriter(place, dtype) as writer:
        for work in works:
            for values in blocks(work.place / "train.bin", dtype):
                writer.write(values)
    index = Index(
        dtype=dtype,
        tokenizer=tokenizer.fingerprint,
        eos=tokenizer.eos,
        bos=tokenizer.bos,
        documents=scan.documents,
        tokens=sum(shard.tokens for shard in writer.shards),
        largest_id=writer.largest_id,
        shards=tuple(writer.shards),
        digest=scan.digest,
    )
    write_index(place, index)
    write_texts(scan, place)


def join_set(scan: SourceScan, works: list[Work], tokenizer: TokenizerHandle, place: Path) -> None:
    """Brings the held-out documents of all pieces into the order of evaluation."""
    dtype = dtype_for(tokenizer.largest_id)
    found: dict[int, SetDocument] = {}
    for work in works:
        piece: dict[str, Any] = json.loads((work.place / "piece.json").read_text())
        stream = np.fromfile(work.place / "held_out.bin", dtype=np.dtype(dtype).newbyteorder("<"))
        records, start = work.unit.records(), 0
        for position, length, label, date in piece["held_out"]:
            record = records[position]
            digest = np.asarray(record["text"], dtype=">u8").tobytes().hex()
            ids = stream[start : start + length]
            found[work.first + position] = SetDocument(ids, int(record["bytes"]), digest, label, date)
            start += length
    write_set(place, [found[int(position)] for position in scan.held_out_positions()], dtype, tokenizer.fingerprint)
