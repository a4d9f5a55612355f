"""Scoring documents: the product's evaluation, and lm-eval's own log-likelihoods of the same documents."""

from __future__ import annotations

from typing import Any

import rewarm_trainer  # noqa: F401 - before torch: it sets how long OpenMP spins

import numpy as np  # isort: skip
import torch

from rewarm_trainer import evaluation
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.memory import keep_freed_memory
from rewarm_trainer.model import TokenLosses, scratch_model
from rewarm_trainer.session import EVALUATION_BATCH_TOKENS
from speed.work import EOS, Work


def documents(count: int, vocabulary: int, length: int) -> list[np.ndarray]:
    """Token ids of documents whose lengths spread as those of web pages do: log-normal, cut at `length`."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.0, 0.8, count), 8, length - 1).astype(int)
    return [random.integers(1, vocabulary, each) for each in lengths]


class Rewarm:
    def __init__(self, work: dict[str, int], count: int, bf16: bool) -> None:
        sizes = Work(**work)
        keep_freed_memory()
        ids = documents(count, sizes.vocabulary, sizes.length)
        self._losses = TokenLosses(scratch_model(sizes.config(), sizes.vocabulary, EOS, seed=1))
        self._documents = EvaluationDocuments("bench", ids, [1] * count, [str(number) for number in range(count)])
        self._length, self._precision = sizes.length, "BF16" if bf16 else "FP32"
        self.facts = {"tokens": sum(map(len, ids))}

    def score(self) -> float:
        """Summed nats."""
        scores = evaluation.score(
            self._losses,
            self._documents,
            bos=None,
            eos=EOS,
            length=self._length,
            batch_tokens=EVALUATION_BATCH_TOKENS,
            precision=self._precision,
            # Whether the label is the likeliest token: lm-eval finds that too, always.
            top1=True,
        )
        return float(scores.nats.sum())


class LmEval:
    """lm-eval's Hugging Face model, asked by token ids: its tokenizer has no part in the time."""

    def __init__(self, work: dict[str, int], count: int, bf16: bool) -> None:
        from lm_eval.models.huggingface import HFLM
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        sizes = Work(**work)
        model = scratch_model(sizes.config(), sizes.vocabulary, EOS, seed=1).eval()
        words = {str(number): number for number in range(sizes.vocabulary)}
        plain = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), eos_token="0", pad_token="0"
        )
        options: dict[str, Any] = {"mixed_precision_dtype": "bfloat16"} if bf16 else {}
        self._model = HFLM(pretrained=model, tokenizer=plain, batch_size=32, max_length=sizes.length, **options)
        ids = documents(count, sizes.vocabulary, sizes.length)
        # The first token is the context, as it has no label in the product's own definition.
        self._requests = [
            (("", str(number)), [int(each[0])], [*map(int, each[1:]), EOS]) for number, each in enumerate(ids)
        ]

    def score(self) -> float:
        with torch.no_grad():
            answers = self._model._loglikelihood_tokens(self._requests, disable_tqdm=True)
        return -float(sum(nats for nats, _ in answers))
