"""A model's answers to requests: log-probabilities of continuations, and greedy text. Knows no benchmark.

The same batches whatever the number of processes: they are dealt over ranks and meet by a sum in which every request
has one addend, so that all ranks get the numbers that one process alone would get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rewarm_trainer.corpus.tokenizer import TokenizerHandle
from rewarm_trainer.evaluation import Batch, Window, batches_of
from rewarm_trainer.items import Answer, Request
from rewarm_trainer.looks import Scorer
from rewarm_trainer.model import IGNORED, autocast, scoring

DEFAULT_LENGTH = 2048
"""Tokens that a model without a length of its own is shown at a time."""


@dataclass(frozen=True)
class Encoded:
    """A continuation after its context, as token ids; `cut` tokens of the context's left did not fit."""

    context: list[int]
    continuation: list[int]
    cut: int = 0


def encode(requests: Sequence[Request], tokenizer: TokenizerHandle, length: int) -> list[Encoded]:
    """Contexts and continuations of log-probability requests; inputs of at most `length` tokens.

    As the harness has it: spaces that end a context belong to its continuation, and the continuation's tokens are those
    of the whole text beyond as many as the context alone has. Without any context the model is given what a document
    begins with: its BOS, else EOS, which stands before every document in training. A context that is too long loses its
    left.
    """
    pairs = [_spaces_moved(request) for request in requests]
    wholes = tokenizer.encode_batch([context + continuation for context, continuation in pairs])
    contexts = tokenizer.encode_batch([context for context, _ in pairs])
    return [_encoded(context, whole, tokenizer, length) for context, whole in zip(contexts, wholes, strict=True)]


def _spaces_moved(request: Request) -> tuple[str, str]:
    assert request.continuation is not None
    kept = request.context.rstrip()
    return kept, request.context[len(kept) :] + request.continuation


def _encoded(context: list[int], whole: list[int], tokenizer: TokenizerHandle, length: int) -> Encoded:
    continuation = whole[len(context) :][-length:]
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    given = [*start, *context] or [tokenizer.eos]
    room = length + 1 - len(continuation)
    return Encoded(given[-room:], continuation, max(0, len(given) - room))


class Answerer:
    """Answers of the model in `scorer`, computed as documents are scored: same precision and batches."""

    def __init__(self, scorer: Scorer, tokenizer: TokenizerHandle) -> None:
        self.scorer, self.tokenizer = scorer, tokenizer
        limit = getattr(scorer.losses.model.config, "max_position_embeddings", None)  # type: ignore[union-attr]
        self.length = int(limit or DEFAULT_LENGTH)

    @property
    def _device(self) -> torch.device:
        return next(self.scorer.losses.parameters()).device

    def answers(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> tuple[list[Answer], int]:
        """An answer to each request, and how many requests had a context that did not fit whole."""
        asked = [number for number, request in enumerate(requests) if request.continuation is not None]
        written = [number for number, request in enumerate(requests) if request.continuation is None]
        result: list[Answer] = [Answer()] * len(requests)
        encoded = encode([requests[number] for number in asked], self.tokenizer, self.length) if asked else []
        was_training = self.scorer.losses.training
        self.scorer.losses.eval()
        try:
            losses, precision = self.scorer.losses, self.scorer.precision
            with torch.no_grad(), scoring(losses.model), autocast(self._device, precision):
                for number, answer in zip(asked, self._log_probabilities(encoded, progress), strict=True):
                    result[number] = answer
                texts, cut = self._texts([requests[number] for number in written], progress) if written else ([], 0)
                for number, text in zip(written, texts, strict=True):
                    result[number] = Answer(text=text)
        finally:
            self.scorer.losses.train(was_training)
        return result, cut + sum(each.cut > 0 for each in encoded)

    def _log_probabilities(
        self, encoded: Sequence[Encoded], progress: Callable[[int, int], None] | None
    ) -> list[Answer]:
        """Windows as evaluation has them, in which only the continuation has labels."""
        same: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        places = [same.setdefault((tuple(each.context), tuple(each.continuation)), len(same)) for each in encoded]
        cut = [_window(number, *pair) for pair, number in same.items()]
        batches = batches_of(cut, self.length, self.scorer.batch_tokens)
        sums = torch.zeros(2, len(cut), dtype=torch.float64)
        for number, batch in enumerate(batches):
            if number % self.scorer.world == self.scorer.rank:
                self._score(batch, sums)
            if progress:
                progress(number + 1, len(batches))
        if self.scorer.world > 1:
            moved = sums.to(self._device)
            torch.distributed.all_reduce(moved)
            sums = moved.cpu()
        nats, right = sums.tolist()
        lengths = [len(continuation) for _, continuation in same]
        # 0.0 is added because nothing to say costs 0 and not -0 nats.
        return [Answer(0.0 - nats[place], right[place] == lengths[place]) for place in places]

    def _score(self, batch: Batch, sums: torch.Tensor) -> None:
        inputs, labels = (torch.from_numpy(array).to(self._device) for array in batch.arrays())
        nats, marks = self.scorer.losses(inputs, labels, None, top1=True)
        owners = torch.tensor([window.document for window in batch.windows])
        for row, values in enumerate((nats, marks)):
            sums[row].index_add_(0, owners, values.double().sum(1).cpu())

    def _texts(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None) -> tuple[list[str], int]:
        """Greedy answers, one prompt at a time: no padding, so no batch changes another's text."""
        contexts = self.tokenizer.encode_batch([request.context for request in requests])
        own: dict[int, str] = {}
        cut = 0
        for number, (request, ids) in enumerate(zip(requests, contexts, strict=True)):
            start = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
            given = [*start, *ids] or [self.tokenizer.eos]
            room = max(1, self.length - request.limit)
            cut += len(given) > room
            if number % self.scorer.world == self.scorer.rank:
                own[number] = self._text(given[-room:], request)
            if progress:
                progress(number + 1, len(requests))
        if self.scorer.world > 1:
            shares: list[Any] = [None] * self.scorer.world
            torch.distributed.all_gather_object(shares, own)
            own = {number: text for share in shares for number, text in share.items()}
        return [own[number] for number in range(len(requests))], cut

    def _text(self, given: list[int], request: Request) -> str:
        """The likeliest next token, again and again, with the keys and values of earlier ones kept."""
        step, past, written = torch.tensor([given], device=self._device), None, list[int]()
        text = ""
        while len(written) < min(request.limit, self.length - len(given) + 1):
            output = self.scorer.losses.model(input_ids=step, past_key_values=past, use_cache=True)  # type: ignore[operator]
            token, past = int(output.logits[0, -1].argmax()), output.past_key_values
            if token == self.tokenizer.eos:
                break
            written.append(token)
            text = self.tokenizer.decode(written)
            if any(end and end in text for end in request.until):
                break
            step = torch.tensor([[token]], device=self._device)
        ends = [text.index(end) for end in request.until if end and end in text]
        return text[: min(ends)] if ends else text


def _window(number: int, context: Sequence[int], continuation: Sequence[int]) -> Window:
    whole = np.array([*context, *continuation], dtype=np.int64)
    labels = whole[1:].copy()
    labels[: len(context) - 1] = IGNORED
    return Window(number, 0, whole[:-1], labels)
