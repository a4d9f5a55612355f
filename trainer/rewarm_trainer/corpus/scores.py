"""Scores of a source's training documents: one column of its files, in the order of the token stream.

Kept beside the shards, not in them: shards depend on text and tokenizer alone. A score is a number, higher is better;
a document without one is an error (65), because an order that guesses is no order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rewarm_api.errors import DataError
from rewarm_api.frozen import digest_of
from rewarm_trainer.corpus.mirror import Mirror
from rewarm_trainer.corpus.records import TRAIN
from rewarm_trainer.corpus.scan import Progress, SourceScan
from rewarm_trainer.corpus.source import TokenSource
from rewarm_trainer.corpus.tokenise import Work, chosen_documents, folder_of, works_of
from rewarm_trainer.files import publish_folder

VERSION = 1
FILE = "scores.npy"
CHUNK_TOKENS = 1 << 22


def address_of(scan: SourceScan, column: str) -> str:
    """Content address: the same files, the same selection of documents and the same column."""
    return digest_of(["scores", VERSION, scan.digest, scan.selection.name, scan.fields.text, column])


def prepare_scores(scan: SourceScan, column: str, cache: Path, progress: Progress, mirror: Mirror) -> str:
    """Reads the column of every training document unless that was done before; returns the content address."""
    address = address_of(scan, column)
    folder = folder_of(address, "scores", cache)
    mirror.fetch(folder)

    def fill(place: Path) -> None:
        progress("scores", scan.name, 0, scan.documents, "documents")
        np.save(place / FILE, np.fromiter(_read(scan, column, cache), dtype=np.float64, count=scan.documents))
        progress("scores", scan.name, scan.documents, scan.documents, "documents")

    publish_folder(folder, fill)
    mirror.store(folder)
    return address


def _read(scan: SourceScan, column: str, cache: Path) -> Iterator[float]:
    # A label is read as text from any format, which is all that a score needs of a reader.
    scored = replace(scan, fields=replace(scan.fields, label=column))
    for work in works_of(scored, (int(TRAIN),), cache):
        for position, _, document in chosen_documents(work, cache, lambda _: None):
            yield _number(document.label, column, work, position)


def _number(text: str | None, column: str, work: Work, position: int) -> float:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = "nothing" if text is None else repr(text[:40])
        raise DataError(
            f"{work.unit.files[0].uri}: document {position + 1} has {found} in the column {column!r}, expected a "
            "finite number; score every document, or name another column in spec.phases orderBy"
        )
    return value


def open_scores(address: str, cache: Path) -> NDArray[np.float64]:
    """Scores by document, in the order of the stream."""
    scores: NDArray[np.float64] = np.load(folder_of(address, "scores", cache) / FILE)
    return scores


def row_scores(source: TokenSource, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The score of each row: the mean score of its input tokens, each token having its document's. [rows]."""
    ends = document_ends(source)
    if len(ends) != len(scores):
        raise DataError(
            f"{source.folder}: holds {len(ends)} documents, {len(scores)} are scored; remove the folder so that it is "
            "prepared again"
        )
    lengths = np.diff(ends, prepend=0)
    sums = np.concatenate([[0.0], np.cumsum(lengths * scores)])
    edges = np.arange(source.rows + 1) * source.sequence_length
    # Within a document the sum of scores grows along a straight line, one score a token.
    return np.diff(np.interp(edges, np.concatenate([[0], ends]), sums)) / source.sequence_length


def document_ends(source: TokenSource) -> NDArray[np.int64]:
    """One past the EOS of each document. Text never encodes to EOS, so that every EOS ends a document."""
    found = []
    for start in range(0, source.tokens, CHUNK_TOKENS):
        part = source.slice(start, min(start + CHUNK_TOKENS, source.tokens))
        found.append(np.flatnonzero(part == source.index.eos) + start + 1)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
