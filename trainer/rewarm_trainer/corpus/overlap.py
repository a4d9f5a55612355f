"""Evaluation text must not be training text: exact document hashes of sets against those of sources."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rewarm_trainer.corpus.records import HELD_OUT, TRAIN, digest_bytes
from rewarm_trainer.corpus.scan import SourceScan


def evaluation_hashes(scan: SourceScan) -> set[bytes]:
    """sha256 of the texts of a set."""
    mask = scan.mask()
    found: set[bytes] = set()
    for start, part in scan.records():
        data = digest_bytes(part["text"][mask[start : start + len(part)] == HELD_OUT])
        found.update(data[at : at + 32] for at in range(0, len(data), 32))
    return found


def overlaps(sets: Mapping[str, SourceScan], sources: Mapping[str, SourceScan]) -> list[tuple[str, str, int]]:
    """(set, source, number of the set's texts that stand in the source's training part), only where above 0."""
    wanted = {name: evaluation_hashes(scan) for name, scan in sets.items()}
    if not any(wanted.values()):
        return []
    first = np.unique(np.frombuffer(b"".join(h[:8] for hashes in wanted.values() for h in hashes), dtype=">u8"))
    found: dict[tuple[str, str], set[bytes]] = {}
    for source, scan in sources.items():
        mask = scan.mask()
        for start, part in scan.records():
            candidates = (mask[start : start + len(part)] == TRAIN) & np.isin(part["text"][:, 0], first)
            data = digest_bytes(part["text"][candidates])
            for at in range(0, len(data), 32):
                for name, hashes in wanted.items():
                    if data[at : at + 32] in hashes:
                        found.setdefault((name, source), set()).add(data[at : at + 32])
    return [(name, source, len(hashes)) for (name, source), hashes in sorted(found.items())]
