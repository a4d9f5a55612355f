"""The tokenizer of a scratch model: trained on the run's own training text, found again for the same text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.frozen import digest_of
from rewarm_api.snapshot import Snapshot
from rewarm_trainer.corpus.mirror import Mirror
from rewarm_trainer.corpus.records import TRAIN
from rewarm_trainer.corpus.scan import Progress, SourceScan
from rewarm_trainer.corpus.tokenise import chosen_documents, folder_of, works_of
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer
from rewarm_trainer.files import publish_folder

VERSION = 1
SMALLEST = 257

log = logging.getLogger(__name__)


def training_texts(scans: Mapping[str, SourceScan], cache: Path, progress: Progress) -> Iterator[str]:
    """Texts of the training part of all sources, in order of name, then of the source."""
    for name in sorted(scans):
        scan, done = scans[name], 0
        total = sum(file.size for unit in scan.units for file in unit.files)
        progress("tokenizer", name, 0, total, "bytes")
        for work in works_of(scan, (int(TRAIN),), cache):
            for _, _, document in chosen_documents(work, cache, lambda _: None):
                yield document.text
            done += sum(file.size for file in work.unit.files)
            progress("tokenizer", name, done, total, "bytes")


def scratch_tokenizer(
    snapshot: Snapshot,
    scans: Mapping[str, SourceScan],
    root: Path,
    cache: Path,
    progress: Progress,
    mirror: Mirror,
) -> TokenizerHandle:
    """The tokenizer that `baseModel.scratch` asks for: that of a folder, or one trained (or found) on the training
    text of corpus and replay, also at ratio 0."""
    tokenizer = snapshot.base_model.options.get("tokenizer") or {}
    if tokenizer.get("file"):
        return TokenizerHandle.load(root / str(tokenizer["file"]), snapshot.training.document_start)
    size = int(tokenizer.get("vocabularySize", 4096))
    if size < SMALLEST:
        raise ManifestError(
            Problem(
                "spec.baseModel.scratch.tokenizer.vocabularySize",
                str(size),
                f"at least {SMALLEST} (256 bytes and <|endoftext|>)",
                "raise it",
            )
        )
    texts = [[name, scans[name].text_digest] for name in sorted(scans)]
    folder = folder_of(digest_of(["tokenizer", VERSION, size, [digest for _, digest in texts]]), "tokenizers", cache)
    mirror.fetch(folder)
    publish_folder(folder, lambda place: train_tokenizer(training_texts(scans, cache, progress), size, place))
    mirror.store(folder)
    handle = TokenizerHandle.load(folder, snapshot.training.document_start)
    if handle.vocabulary < size:
        log.warning("the text gave a vocabulary of %d tokens, %d were asked for", handle.vocabulary, size)
    return handle
