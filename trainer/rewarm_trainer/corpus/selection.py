"""Which documents of a source are trained on, which are duplicates, which are held out. Pure over records.

Both passes work in buckets of the hash, so that memory stays at one bucket (about a million documents) plus one byte a
document, whatever the size of the corpus. Neither knows files: only the position of a document in its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

from rewarm_api.snapshot import HeldOut
from rewarm_trainer.corpus.records import DUPLICATE, HELD_OUT, RECORD, TRAIN

BUCKET_DOCUMENTS = 1 << 20
CHUNK = 1 << 18
BYTES_PER_TOKEN = 4
PLACED = np.dtype([*((name, RECORD[name]) for name in RECORD.names or ()), ("position", "<i8")])


@dataclass(frozen=True, slots=True)
class Rule:
    """How much is held out; `fraction` is exact."""

    fraction: Fraction
    minimum_documents: int
    maximum_tokens: int

    @classmethod
    def of(cls, held_out: HeldOut) -> Rule:
        percent = Decimal(str(held_out.fraction).strip().removesuffix("%").strip())
        return cls(Fraction(percent) / 100, held_out.minimum_documents, held_out.maximum_tokens)

    def documents(self, documents: int) -> int:
        """n = min(max(ceil(fraction x documents), minimumDocuments), floor(documents / 5))."""
        return min(max(math.ceil(self.fraction * documents), self.minimum_documents), documents // 5)


def buckets(column: np.ndarray, count: int) -> np.ndarray:
    """Bucket of each digest: its first 32 bits scaled to `count`, so that buckets are ranges in order."""
    first = np.asarray(column[:, 0], dtype=np.uint64) >> np.uint64(32)
    return ((first * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def chunks(pieces: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """(position of the first record, records) over all pieces, a bounded number at a time."""
    position = 0
    for piece in pieces:
        for start in range(0, len(piece), CHUNK):
            part = piece[start : start + CHUNK]
            yield position + start, part
        position += len(piece)


def placed(records: np.ndarray, positions: np.ndarray) -> np.ndarray:
    result = np.empty(len(records), dtype=PLACED)
    for name in RECORD.names or ():
        result[name] = records[name]
    result["position"] = positions
    return result


def mark_duplicates(
    pieces: Sequence[np.ndarray], mask: np.ndarray, workspace: Path, bucket_documents: int = BUCKET_DOCUMENTS
) -> int:
    """Marks all but one document of each text in `mask` and returns how many.

    The copy that stays is the one with the smallest hold-out key (they differ only between groups), then the first:
    so what is held out does not depend on the order of files.
    """
    count = max(1, math.ceil(len(mask) / bucket_documents))
    if count == 1:
        everything = [placed(part, np.arange(start, start + len(part))) for start, part in chunks(pieces)]
        return mark_bucket(np.concatenate(everything), mask) if everything else 0
    names = [workspace / f"bucket-{number}" for number in range(count)]
    for start, part in chunks(pieces):
        rows, where = placed(part, np.arange(start, start + len(part))), buckets(part["text"], count)
        order = np.argsort(where, kind="stable")
        borders = np.searchsorted(where[order], np.arange(count + 1))
        for number in np.unique(where):
            with names[number].open("ab") as stream:
                stream.write(rows[order[borders[number] : borders[number + 1]]].tobytes())
    duplicates = 0
    for name in names:
        if name.exists():
            duplicates += mark_bucket(np.fromfile(name, dtype=PLACED), mask)
            name.unlink()
    return duplicates


def columns(digests: np.ndarray) -> list[np.ndarray]:
    """The words of a digest as sort keys for lexsort: least significant first."""
    return [np.asarray(digests[:, word], dtype=np.uint64) for word in (3, 2, 1, 0)]


def mark_bucket(rows: np.ndarray, mask: np.ndarray) -> int:
    order = np.lexsort([rows["position"], *columns(rows["key"]), *columns(rows["text"])])
    rows = rows[order]
    again = np.zeros(len(rows), dtype=bool)
    again[1:] = np.all(rows["text"][1:] == rows["text"][:-1], axis=1)
    mask[rows["position"][again]] = DUPLICATE
    return int(again.sum())


def hold_out(
    pieces: Sequence[np.ndarray], mask: np.ndarray, rule: Rule, bucket_documents: int = BUCKET_DOCUMENTS
) -> np.ndarray:
    """Marks held-out documents in `mask` by trainer.md, "Hold-out". Returns their positions in order of key.

    Groups (documents with one key) are taken whole: a group that would lift the held-out part above floor(documents/5)
    stays in training, and the next one is tried. Without groups every key stands for one document.
    """
    documents = int(np.count_nonzero(mask == TRAIN))
    asked = rule.documents(documents)
    taken: list[int] = []
    tokens = 0
    for positions, sizes in groups_by_key(pieces, mask, bucket_documents):
        if len(taken) >= asked:
            break
        if len(taken) + len(positions) > documents // 5:
            continue
        size = int(np.sum(sizes // BYTES_PER_TOKEN))
        if len(taken) >= rule.minimum_documents and tokens + size > rule.maximum_tokens:
            break
        taken.extend(positions.tolist())
        tokens += size
    chosen = np.array(taken, dtype=np.int64)
    mask[chosen] = HELD_OUT
    return chosen


def groups_by_key(
    pieces: Sequence[np.ndarray], mask: np.ndarray, bucket_documents: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions, UTF-8 lengths) of the documents of each key, in order of key, then of text."""
    kept = mask == TRAIN
    count = max(1, math.ceil(len(mask) / bucket_documents))
    for number in range(count):
        parts = []
        for start, part in chunks(pieces):
            inside = kept[start : start + len(part)] & (buckets(part["key"], count) == number)
            if inside.any():
                parts.append(placed(part[inside], start + np.flatnonzero(inside)))
        if not parts:
            continue
        rows = np.concatenate(parts)
        rows = rows[np.lexsort([*columns(rows["text"]), *columns(rows["key"])])]
        different = np.flatnonzero(np.any(rows["key"][1:] != rows["key"][:-1], axis=1)) + 1
        borders = [0, *different.tolist(), len(rows)]
        for first, last in pairwise(borders):
            yield rows["position"][first:last], rows["bytes"][first:last]
