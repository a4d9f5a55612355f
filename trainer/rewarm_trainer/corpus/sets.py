"""Evaluation sets on disk: each document by itself, without BOS and EOS, in the order in which looks take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.files import write_json

VERSION = 1


@dataclass(frozen=True)
class EvaluationDocuments:
    """The documents of one set.

    `ids`: token ids of each document without BOS and EOS; `bytes`: UTF-8 length of its text; `hashes`: sha256 of its
    text in hex; `labels`, `dates`: values of labelField and dateField, None where not asked for or absent.
    Held-out documents stand in order of their hold-out key, those with a uri of their own in order of their files.
    """

    name: str
    ids: list[np.ndarray]
    bytes: list[int]
    hashes: list[str]
    labels: list[str | None] = field(default_factory=list)
    dates: list[str | None] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(len(each) for each in self.ids)


@dataclass(frozen=True, slots=True)
class SetDocument:
    """One tokenised document on its way into a set."""

    ids: Sequence[int] | np.ndarray
    bytes: int
    hash: str
    label: str | None = None
    date: str | None = None


def write_set(place: Path, documents: Sequence[SetDocument], dtype: str, tokenizer: str) -> None:
    """Writes `tokens.bin` and `documents.json` into `place`."""
    kind = np.dtype(dtype).newbyteorder("<")
    with (place / "tokens.bin").open("wb") as stream:
        for document in documents:
            stream.write(np.asarray(document.ids, dtype=kind).tobytes())
    rows = [[len(each.ids), each.bytes, each.hash, each.label, each.date] for each in documents]
    largest = max((int(np.max(each.ids)) for each in documents if len(each.ids)), default=-1)
    head = {"version": VERSION, "dtype": dtype, "tokenizer": tokenizer, "largestId": largest}
    write_json(place / "documents.json", {**head, "documents": rows})


def open_set(folder: Path, name: str = "") -> EvaluationDocuments:
    """Opens a set; token ids are views of one memory-mapped file. Raises MissingInputError (66), DataError (65)."""
    try:
        head = json.loads((folder / "documents.json").read_text())
    except FileNotFoundError as error:
        raise MissingInputError(f"{folder}: no evaluation set there; prepare the run again") from error
    rows = head["documents"]
    ends = np.cumsum([row[0] for row in rows], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    kind = np.dtype(head["dtype"]).newbyteorder("<")
    path = folder / "tokens.bin"
    if path.stat().st_size != total * kind.itemsize:
        raise DataError(f"{path}: {path.stat().st_size} bytes, expected {total * kind.itemsize}; remove the folder")
    stream = np.memmap(path, dtype=kind, mode="r") if total else np.empty(0, dtype=kind)
    return EvaluationDocuments(
        name=name or folder.name,
        ids=[stream[end - row[0] : end] for end, row in zip(ends, rows, strict=True)],
        bytes=[row[1] for row in rows],
        hashes=[row[2] for row in rows],
        labels=[row[3] for row in rows],
        dates=[row[4] for row in rows],
    )


def largest_id(folder: Path) -> int:
    return int(json.loads((folder / "documents.json").read_text())["largestId"])
