"""Corpora: from files to rows of tokens, the same for everyone who reads the same definitions. Never imports torch.

`prepare` makes (or finds) token shards and evaluation sets; `open_source` and `open_set` read them.
"""

from __future__ import annotations

from rewarm_trainer.corpus.inputs import InputFile, expand
from rewarm_trainer.corpus.prepare import Prepared, check_embedding, prepare
from rewarm_trainer.corpus.sets import EvaluationDocuments, open_set
from rewarm_trainer.corpus.shards import Index, verify
from rewarm_trainer.corpus.source import Rows, SubsetSource, TokenSource, open_source
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer

__all__ = [
    "EvaluationDocuments",
    "Index",
    "InputFile",
    "Prepared",
    "Rows",
    "SubsetSource",
    "TokenSource",
    "TokenizerHandle",
    "check_embedding",
    "expand",
    "open_set",
    "open_source",
    "prepare",
    "train_tokenizer",
    "verify",
]
