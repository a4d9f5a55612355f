"""The teacher of `mixture.domainDiscrepancy`: another model that the corpus is measured against, scored once.

It must have this run's tokenizer: perplexities of other tokens are of another unit. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from rewarm_api.errors import DataError
from rewarm_api.pins import Pins
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.base import Base, locate
from rewarm_trainer.corpus.tokenizer import TokenizerHandle

FIELD = "spec.mixture.domainDiscrepancy.teacher"


def locate_teacher(snapshot: Snapshot, root: Path, cache: Path, pins: Pins | None) -> Base | None:
    """The teacher, None where the base is it. With `pins` the same weights are expected again (65)."""
    discrepancy = snapshot.mixture and snapshot.mixture.domain_discrepancy
    if discrepancy is None or discrepancy.teacher is None:
        return None
    asked = snapshot.model_copy(update={"base_model": discrepancy.teacher})
    try:
        return locate(asked, root, cache, pins.teacher if pins else None)
    except DataError as error:
        raise DataError(f"{FIELD}: {str(error).removeprefix('spec.baseModel: ')}") from error


def checked_teacher(snapshot: Snapshot, root: Path, cache: Path, pins: Pins | None, tokenizer: str) -> Base | None:
    """The teacher, refused when its tokenizer is not this run's (65)."""
    found = locate_teacher(snapshot, root, cache, pins)
    if found is None or found.folder is None:
        return None
    own = TokenizerHandle.load(found.folder, snapshot.training.document_start).fingerprint
    if own != tokenizer:
        raise DataError(
            f"{FIELD}: {found.folder} has tokenizer {own[:19]}, this run's is {tokenizer[:19]}; perplexities of two "
            "tokenizers cannot be compared; take a teacher of the base's own family"
        )
    return found
