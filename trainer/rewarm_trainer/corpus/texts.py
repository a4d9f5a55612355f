"""Which texts a prepared source trains on, beside its shards: so that a later run can ask what its base has seen.

`texts.hashes` holds the first 8 bytes of the sha256 of each training document, sorted. Among a thousand million of them
one of a thousand other texts is found by mistake once in 20 million questions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rewarm_trainer.corpus.records import TRAIN
from rewarm_trainer.corpus.scan import SourceScan
from rewarm_trainer.files import write_bytes

TEXTS = "texts.hashes"


def write_texts(scan: SourceScan, folder: Path) -> None:
    """Write `texts.hashes` of a source's training documents, unless it is there."""
    if (folder / TEXTS).exists():
        return
    mask = scan.mask()
    parts = [part["text"][mask[start : start + len(part)] == TRAIN][:, 0] for start, part in scan.records()]
    found = np.sort(np.concatenate(parts).astype("<u8")) if parts else np.empty(0, dtype="<u8")
    write_bytes(folder / TEXTS, found.tobytes())


def count_seen(texts: Path, hashes: Iterable[str]) -> int:
    """How many documents, by the sha256 of their text in hex, a `texts.hashes` holds."""
    asked = np.array(sorted({int(digest[:16], 16) for digest in hashes}), dtype="<u8")
    if not len(asked) or not texts.stat().st_size:
        return 0
    there: np.ndarray = np.memmap(texts, dtype="<u8", mode="r")
    places = np.minimum(np.searchsorted(there, asked), len(there) - 1)
    return int(np.count_nonzero(there[places] == asked))
