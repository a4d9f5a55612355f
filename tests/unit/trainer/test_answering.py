"""Answers of a model: log-probabilities against the definition done slowly, and greedy text against generate()."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import CONFIGS

from rewarm_trainer.answering import Answerer, encode
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer
from rewarm_trainer.items import Request
from rewarm_trainer.looks import Scorer
from rewarm_trainer.model import TokenLosses, scratch_model

TEXTS = ["the cat sat on the mat and the dog sat on the cat", "a dog and a cat ran to the mat", "mat cat dog"] * 20
REQUESTS = [
    Request("the cat sat", " on the mat"),
    Request("the cat sat", " on the dog"),
    Request("the cat sat ", "on the mat"),
    Request("", "a dog"),
    Request("the dog ran to the " * 30, "cat"),
    Request("a dog and a cat", " mat"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerHandle:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 280, folder)
    return TokenizerHandle.load(folder)


@pytest.fixture(scope="module")
def model(tokenizer: TokenizerHandle) -> torch.nn.Module:
    return scratch_model(CONFIGS["llama"], tokenizer.vocabulary, tokenizer.eos, seed=3)


def answerer(model, tokenizer, rank: int = 0, world: int = 1, batch_tokens: int = 128) -> Answerer:
    losses = TokenLosses(model)
    return Answerer(Scorer(losses, None, tokenizer.eos, 24, batch_tokens, "FP32", rank, world), tokenizer)


def slowly(model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    with torch.no_grad():
        chances = torch.log_softmax(model(torch.tensor([context + continuation])).logits[0].double(), -1)
    ahead = chances[len(context) - 1 : -1]
    nats = sum(float(ahead[place, token]) for place, token in enumerate(continuation))
    return nats, ahead.argmax(-1).tolist() == continuation


def test_log_probabilities_are_those_of_each_continuation_alone(model, tokenizer) -> None:
    found, cut = answerer(model, tokenizer).answers(REQUESTS)
    assert cut == 1, "one context did not fit into the 64 positions"
    for request, answer in zip(REQUESTS, found, strict=True):
        (pair,) = encode([request], tokenizer, 64)
        nats, greedy = slowly(model, pair.context, pair.continuation)
        assert answer.nats == pytest.approx(nats, rel=1e-4)
        assert answer.is_greedy == greedy


def test_the_likeliest_continuation_is_greedy(model, tokenizer) -> None:
    context = tokenizer.encode_batch(["the cat"])[0]
    with torch.no_grad():
        likeliest = int(model(torch.tensor([context])).logits[0, -1].argmax())
    text = tokenizer.decode([likeliest])
    found, _ = answerer(model, tokenizer).answers([Request("the cat", text), Request("the cat", " zzz")])
    assert tokenizer.encode_batch(["the cat" + text])[0] == [*context, likeliest], "the test needs a clean border"
    assert [answer.is_greedy for answer in found] == [True, False]


def test_spaces_at_the_end_of_a_context_belong_to_what_follows(tokenizer) -> None:
    one, two = encode(REQUESTS[:1] + REQUESTS[2:3], tokenizer, 64)
    assert one == two
    assert one.context + one.continuation == tokenizer.encode_batch(["the cat sat on the mat"])[0]


def test_without_a_context_the_model_sees_the_end_of_the_document_before(tokenizer) -> None:
    (pair,) = encode([Request("", "a dog")], tokenizer, 64)
    assert pair.context == [tokenizer.eos]
    with_bos = TokenizerHandle(tokenizer.folder, tokenizer.rules, tokenizer.eos, bos=5)
    assert encode([Request("", "a dog")], with_bos, 64)[0].context == [5]
    assert encode([Request("the", " dog")], with_bos, 64)[0].context[0] == 5


def test_a_long_context_loses_its_left(tokenizer) -> None:
    (whole,) = encode([REQUESTS[4]], tokenizer, 10**6)
    (short,) = encode([REQUESTS[4]], tokenizer, 20)
    assert len(short.context) + len(short.continuation) == 21, "the last token is only a label"
    assert whole.context[-len(short.context) :] == short.context
    assert short.cut == len(whole.context) - len(short.context)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_and_get_the_same_numbers(model, tokenizer, world, monkeypatch) -> None:
    alone, _ = answerer(model, tokenizer, batch_tokens=16).answers(REQUESTS)
    sums: list[torch.Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", sums.append)
    for rank in range(world):
        answerer(model, tokenizer, rank, world, batch_tokens=16).answers(REQUESTS)
    total = torch.stack(sums).sum(0)
    different = [answer for number, answer in enumerate(alone) if number != 2]
    assert [-answer.nats for answer in different] == total[0].tolist(), "the same question is asked once"
    assert alone[2] == alone[0]


def test_written_answers_are_those_of_greedy_search(model, tokenizer) -> None:
    prompts = ["the cat sat", "a dog"]
    found, _ = answerer(model, tokenizer).answers([Request(prompt, None, (), 8) for prompt in prompts])
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer.encode_batch([prompt])[0]])
        with torch.no_grad():
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0
            )
        assert answer.text == tokenizer.decode(written[0, ids.shape[1] :].tolist())
        assert math.isnan(answer.nats)


def test_a_written_answer_ends_before_its_stop(model, tokenizer) -> None:
    (whole,), _ = answerer(model, tokenizer).answers([Request("the cat sat", None, (), 8)])
    stop = whole.text[3:5]
    (cut,), _ = answerer(model, tokenizer).answers([Request("the cat sat", None, ("never", stop), 8)])
    assert cut.text == whole.text[: whole.text.index(stop)]
