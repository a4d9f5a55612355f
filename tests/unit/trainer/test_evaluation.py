"""Windows and scores of held-out documents, against the definition done slowly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_trainer import evaluation
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.evaluation import Scores, batches_of, score, windows, within
from rewarm_trainer.model import TokenLosses, scratch_model

EOS, BOS, LENGTH = 0, 1, 16


@pytest.fixture(scope="module")
def losses() -> TokenLosses:
    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return TokenLosses(scratch_model(config, 50, EOS, seed=3))


def documents(*lengths: int) -> EvaluationDocuments:
    random = np.random.default_rng(7)
    ids = [random.integers(2, 50, length) for length in lengths]
    return EvaluationDocuments("set", ids, [3 * n + 1 for n in lengths], [f"h{i}" for i in range(len(lengths))])


@given(st.lists(st.integers(0, 70), min_size=1, max_size=6), st.sampled_from([None, BOS]), st.integers(1, 20))
def test_windows_cut_every_label_once_and_only_score_the_first_token_after_a_bos(
    lengths: list[int], bos: int | None, length: int
) -> None:
    cut = windows(documents(*lengths).ids, bos=bos, eos=EOS, length=length)
    for number, ids in enumerate(documents(*lengths).ids):
        mine = [window for window in cut if window.document == number]
        whole = ([] if bos is None else [bos]) + ids.tolist() + [EOS]
        assert [token for window in mine for token in window.labels] == whole[1:]
        assert [token for window in mine for token in window.inputs] == whole[:-1]
        assert all(len(window.labels) == length for window in mine[:-1])


@pytest.mark.parametrize("bos", [None, BOS])
def test_scores_are_those_of_each_window_alone(losses: TokenLosses, bos: int | None) -> None:
    chosen = documents(5, 40, 1, 16, 33, 9)
    scores = score(losses, chosen, bos=bos, eos=EOS, length=LENGTH, batch_tokens=64, precision="FP32")
    expected, labels = np.zeros(6), np.zeros(6)
    with torch.no_grad():
        for window in windows(chosen.ids, bos=bos, eos=EOS, length=LENGTH):
            logits = losses.model(torch.from_numpy(window.inputs)[None]).logits[0].double()
            picked = torch.log_softmax(logits, -1)[range(len(window.labels)), window.labels]
            expected[window.document] -= float(picked.sum())
            labels[window.document] += len(window.labels)
    np.testing.assert_allclose(scores.nats, expected, rtol=1e-5)
    assert scores.labels.tolist() == labels.tolist()
    assert scores.loss == pytest.approx(expected.sum() / labels.sum(), rel=1e-5)
    assert scores.bits_per_byte == pytest.approx(expected.sum() / math.log(2) / sum(chosen.bytes), rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([16, 64, 1024]), st.integers(1, 3))
def test_scores_do_not_depend_on_batching_or_on_how_ranks_share(
    losses: TokenLosses, batch_tokens: int, world: int
) -> None:
    chosen = documents(5, 40, 1, 16, 33, 9)
    options = {"bos": None, "eos": EOS, "length": LENGTH, "precision": "FP32"}
    whole = score(losses, chosen, batch_tokens=128, **options)
    # Without a process group a rank's own share comes back; the shares of all ranks add up to the whole.
    parts = [_share(losses, chosen, rank, world, batch_tokens, options) for rank in range(world)]
    np.testing.assert_allclose(sum(part.nats for part in parts), whole.nats, rtol=1e-5)


def _share(losses, chosen, rank, world, batch_tokens, options) -> Scores:  # type: ignore[no-untyped-def]
    reduce, torch.distributed.all_reduce = torch.distributed.all_reduce, lambda tensor: None
    try:
        return score(losses, chosen, batch_tokens=batch_tokens, rank=rank, world=world, **options)
    finally:
        torch.distributed.all_reduce = reduce


def test_a_large_vocabulary_shares_a_pass_among_fewer_labels(
    losses: TokenLosses, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = documents(5, 40, 1, 16, 33, 9)
    options = {"bos": None, "eos": EOS, "length": LENGTH, "batch_tokens": 8192, "precision": "FP32"}
    passes: list[tuple[int, int]] = []
    seen = losses.register_forward_hook(lambda _, given, __: passes.append(tuple(given[0].shape)))
    whole = score(losses, chosen, **options)
    assert max(rows * width for rows, width in passes) > 2 * LENGTH
    passes.clear()
    monkeypatch.setattr(evaluation, "LOGITS_TOGETHER", 2 * LENGTH * 50)
    np.testing.assert_allclose(score(losses, chosen, **options).nats, whole.nats, rtol=1e-6)
    assert max(rows * width for rows, width in passes) == 2 * LENGTH
    passes.clear()
    monkeypatch.setattr(evaluation, "LOGITS_TOGETHER", 1)
    score(losses, chosen, **options)
    seen.remove()
    assert max(rows for rows, _ in passes) == 1, "a window is never cut"


def test_a_look_takes_the_first_documents_up_to_its_tokens() -> None:
    chosen = documents(10, 10, 10, 10)
    assert within(chosen, None, 25) == 2
    assert within(chosen, None, 30) == 3
    assert within(chosen, BOS, 30) == 2
    assert within(chosen, None, 1) == 1, "at least one document"
    assert within(chosen, None, 1000) == 4


def test_scores_survive_json_and_are_cut_to_their_first() -> None:
    value = Scores(("a", "b"), np.array([1.5, 2.5]), np.array([3, 4]), np.array([5, 6]))
    again = Scores.from_json(value.to_json())
    assert (again.hashes, again.nats.tolist(), again.labels.tolist()) == (("a", "b"), [1.5, 2.5], [3, 4])
    assert again.first(1).loss == 0.5


@pytest.mark.parametrize("bos", [None, BOS])
def test_marks_are_the_labels_that_the_model_would_have_chosen(losses: TokenLosses, bos: int | None) -> None:
    chosen = documents(5, 40, 0, 16, 33, 9)
    options = {"bos": bos, "eos": EOS, "length": LENGTH, "batch_tokens": 64, "precision": "FP32"}
    scores = score(losses, chosen, top1=True, **options)
    expected = []
    with torch.no_grad():
        for window in windows(chosen.ids, bos=bos, eos=EOS, length=LENGTH):
            best = losses.model(torch.from_numpy(window.inputs)[None]).logits[0].argmax(-1).numpy()
            expected += (best == window.labels).tolist()
    assert scores.top1 is not None
    assert scores.top1.tolist() == expected
    assert 0 < sum(expected) < len(expected)
    plain = score(losses, chosen, **options)
    assert plain.top1 is None
    assert plain.nats.tolist() == scores.nats.tolist(), "marks cost no accuracy"


def test_marks_of_all_ranks_add_up_to_those_of_one(losses: TokenLosses) -> None:
    chosen = documents(5, 40, 1, 16, 33, 9)
    options = {"bos": None, "eos": EOS, "length": LENGTH, "precision": "FP32", "top1": True}
    whole = score(losses, chosen, batch_tokens=32, **options)
    parts = [_share(losses, chosen, rank, 3, 32, options) for rank in range(3)]
    assert np.sum([part.top1 for part in parts], axis=0).tolist() == whole.top1.astype(int).tolist()


def test_marks_survive_json_and_go_with_their_documents() -> None:
    marks = np.array([1, 0, 1, 0, 0, 1, 1, 1, 1, 0], dtype=bool)
    value = Scores(("a", "b", "c"), np.ones(3), np.array([4, 1, 5]), np.ones(3, dtype=int), marks)
    told = value.to_json()
    assert told["right"] == [2, 0, 4]
    again = Scores.from_json(json.loads(json.dumps(told)))
    assert again.top1.tolist() == marks.tolist()
    assert again.first(2).top1.tolist() == marks[:5].tolist()
    picked = again.chosen([2, 0])
    assert (picked.hashes, picked.top1.tolist()) == (("c", "a"), [*marks[5:], *marks[:4]])
    assert again.chosen([]).top1.tolist() == []
    with pytest.raises(ValueError, match="8 marks for 10 labels"):
        Scores.from_json({**told, "top1": "AA=="})


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(600, 1024))
def test_every_window_has_a_place_and_little_of_a_pass_is_padding(lengths: list[int], length: int) -> None:
    cut = windows([np.ones(each, dtype=np.int64) for each in lengths], bos=None, eos=EOS, length=length)
    batches = batches_of(cut, length, 2048)
    found = [window for batch in batches for window in batch.windows]
    assert sorted(window.document for window in found) == list(range(len(lengths)))
    for batch in batches:
        inputs, labels = batch.arrays()
        assert inputs.shape == labels.shape == (len(batch.windows), batch.width)
        assert inputs.size <= 2048 or len(batch.windows) == 1
        for window in batch.windows:
            assert len(window.labels) <= batch.width <= max(16, 1.25 * len(window.labels))
