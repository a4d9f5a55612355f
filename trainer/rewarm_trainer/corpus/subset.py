"""Which training documents a subset keeps. Pure over records; runs after deduplication and hold-out.

    training documents --in order of text digest, or of score--> a prefix of the size asked for; the rest is LEFT_OUT

Guo et al. 2024 (2406.14833): a random subset of proper size for several epochs, or the documents of the highest
quality, makes the stability gap shallower. Random goes by the sha256 of the text: the same documents for every seed
and file order, and 10 % of a source lie within its 20 %. Held-out documents are those of the whole source, so that
subsets of any size are judged on the same text. Takes 25 bytes of memory a document while it chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np

from rewarm_api.quantity import parse_percent
from rewarm_api.snapshot import Subset
from rewarm_trainer.corpus.records import LEFT_OUT, TRAIN
from rewarm_trainer.corpus.selection import BYTES_PER_TOKEN, chunks


@dataclass(frozen=True, slots=True)
class SubsetRule:
    """How much is kept, one of `share` (exact, of the bytes) and `tokens` (bytes / 4), and in which order."""

    share: Fraction | None
    tokens: int | None
    by: str

    @classmethod
    def of(cls, subset: Subset) -> SubsetRule:
        share = None if subset.share is None else Fraction(parse_percent(subset.share)) / 100
        return cls(share, subset.tokens, subset.by)

    def to_json(self) -> dict[str, Any]:
        """As part of a key."""
        return {**asdict(self), "share": None if self.share is None else str(self.share)}

    def bytes_wanted(self, total: int) -> int:
        """UTF-8 bytes to keep of `total`."""
        if self.share is not None:
            return ceil(self.share * total)
        assert self.tokens is not None
        return self.tokens * BYTES_PER_TOKEN


def leave_out(pieces: Sequence[np.ndarray], mask: np.ndarray, rule: SubsetRule, scores: np.ndarray | None) -> int:
    """Marks in `mask` the training documents that the subset does without; returns how many.

    Keeps the shortest prefix that holds at least the bytes wanted, so at least one document. Documents of equal score
    stand in order of their text's digest.
    """
    positions = np.flatnonzero(mask == TRAIN)
    sizes, digests = _gathered(pieces, mask, len(positions))
    keys = [digests]
    if rule.by != "Random":
        if scores is None or len(scores) != len(mask):
            raise ValueError(f"{0 if scores is None else len(scores)} scores for {len(mask)} documents")
        chosen = scores[positions]
        keys.append(-chosen if rule.by == "HighestScore" else chosen)
    order = np.lexsort(keys)
    kept = int(np.searchsorted(np.cumsum(sizes[order]), rule.bytes_wanted(int(sizes.sum())))) + 1
    left = positions[order[kept:]]
    mask[left] = LEFT_OUT
    return len(left)


def _gathered(pieces: Sequence[np.ndarray], mask: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes of each training document and the first 64 bits of its text's digest, in order of position."""
    sizes, digests, done = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.uint64), 0
    for start, part in chunks(pieces):
        wanted = part[mask[start : start + len(part)] == TRAIN]
        sizes[done : done + len(wanted)] = wanted["bytes"]
        digests[done : done + len(wanted)] = wanted["text"][:, 0]
        done += len(wanted)
    return sizes, digests
