"""One update: the same whatever the micro-batches, skipped whole when it is not finite, on FP32 masters."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_models import LENGTH, SETTINGS, Trainer, batch_of, random_rows, tiny

from rewarm_trainer.update import reseed

POISON = 13
CPU = torch.device("cpu")


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def moments(trainer: Trainer) -> list[torch.Tensor]:
    return [value.clone() for fields in trainer.optimizer.state.values() for value in fields.values()]


def clean_rows(count: int, seed: int = 1) -> np.ndarray:
    rows = random_rows(count, seed)
    return np.where(rows == POISON, POISON + 1, rows)


def poisoned_model() -> torch.nn.Module:
    """A model whose loss is not finite on rows that hold the token POISON, and on no other row."""
    model = tiny(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = torch.inf
    return model


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_cut_batch_trains_as_rows_of_that_length_and_names_the_rows_that_were_cut() -> None:
    whole = clean_rows(4)
    whole[2, LENGTH // 2 + 1] = POISON
    pieces = np.concatenate([np.stack([row[: LENGTH // 2 + 1], row[LENGTH // 2 :]]) for row in whole])
    settings = SETTINGS.model_copy(update={"epsilon": 1.0})
    for model, poisoned in ((tiny, False), (poisoned_model, True)):
        one, other = (Trainer(model(), settings=settings, micro_rows=rows) for rows in (2, 4))
        cut = one.apply(0, batch_of(whole, sequence_length=LENGTH // 2))
        short = other.apply(0, batch_of(pieces))
        assert same(list(weights(one).values()), list(weights(other).values()))
        assert one.updater.broken_rows(cut) == ([2] if poisoned else [])
        assert other.updater.broken_rows(short) == ([5] if poisoned else [])
        assert poisoned or cut.read().loss == pytest.approx(short.read().loss, rel=1e-6)


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_an_update_does_not_depend_on_the_micro_batches(micro_rows: int) -> None:
    # A large epsilon makes the update proportional to the gradient instead of to its sign.
    settings = SETTINGS.model_copy(update={"epsilon": 1.0})
    batch = batch_of(random_rows(8), ["a", "b"] * 4)
    assert len({part.valid for part in (batch.part(n, n + micro_rows) for n in range(0, 8, micro_rows))}) > 1
    whole = Trainer(tiny(), settings=settings, micro_rows=8, sources=2)
    expected = whole.apply(0, batch, by_source=True)
    split = Trainer(tiny(), settings=settings, micro_rows=micro_rows, sources=2)
    found = split.apply(0, batch, by_source=True)
    assert found.read().loss == pytest.approx(expected.read().loss, rel=1e-5)
    assert found.read().gradient_norm == pytest.approx(expected.read().gradient_norm, rel=1e-5)
    names = {"a": 0, "b": 1}
    assert found.losses(names) == pytest.approx(expected.losses(names), rel=1e-5)
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(split)[name], atol=1e-7), name


def test_loss_is_nats_per_scored_label_and_by_source() -> None:
    rows = random_rows(8)
    batch = batch_of(rows, ["a"] * 6 + ["b"] * 2)
    trainer = Trainer(tiny(), sources=2)
    with torch.no_grad():
        nats = trainer.losses(*(torch.from_numpy(part) for part in (batch.inputs, batch.labels, batch.positions)))
    outcome = trainer.apply(0, batch, by_source=True)
    scored = batch.labels != -100
    assert batch.valid == scored.sum() < 8 * LENGTH
    assert outcome.read().loss == pytest.approx(float(nats.sum()) / batch.valid, rel=1e-5)
    assert outcome.losses({"a": 0, "b": 1}) == pytest.approx(
        {"a": float(nats[:6].sum()) / scored[:6].sum(), "b": float(nats[6:].sum()) / scored[6:].sum()}, rel=1e-5
    )
    assert Trainer(tiny()).apply(0, batch_of(rows)).losses({"a": 0}) == {}, "only where it was asked for"


def test_a_non_finite_update_changes_nothing_and_says_so() -> None:
    trainer = Trainer(poisoned_model())
    trainer.apply(0, batch_of(clean_rows(8)))
    before, moments_before = weights(trainer), moments(trainer)
    rows = clean_rows(8, seed=2)
    rows[5, 3] = POISON
    numbers = trainer.apply(1, batch_of(rows), 0.1).read()
    assert not numbers.finite
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(trainer).items())
    assert same(moments(trainer), moments_before), "neither moments nor step counts moved"
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_training_goes_on_after_a_skipped_update_as_if_it_had_not_been() -> None:
    rows = clean_rows(8, seed=2)
    rows[5, 3] = POISON
    with_it, without = Trainer(poisoned_model()), Trainer(poisoned_model())
    for trainer in (with_it, without):
        assert trainer.apply(0, batch_of(clean_rows(8))).read().finite
        if trainer is with_it:
            assert not trainer.apply(1, batch_of(rows)).read().finite
        assert trainer.apply(2, batch_of(clean_rows(8, seed=3))).read().finite
    assert all(torch.equal(tensor, weights(without)[name]) for name, tensor in weights(with_it).items())


def test_masters_are_fp32_and_small_updates_survive_bf16_compute() -> None:
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    trainer = Trainer(model, precision="BF16")
    rate = 3e-5
    seen: list[torch.dtype] = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    numbers = trainer.apply(0, batch_of(random_rows(8)), rate).read()
    assert numbers.finite
    assert set(seen) == {torch.bfloat16}, "compute is BF16"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {value.dtype for value in moments(trainer)} == {torch.float32}
    moved = {name: (tensor - before[name]) for name, tensor in model.state_dict().items()}
    layers = torch.cat([change.flatten() for name, change in moved.items() if name.endswith("proj.weight")])
    # AdamW's first update is the rate times the gradient's sign: too small for BF16 weights of this size, not for FP32.
    assert (layers.abs() > 0.5 * rate).float().mean() > 0.99
    stored = torch.cat([before[name].flatten() for name in moved if name.endswith("proj.weight")])
    lost = ((stored + layers).bfloat16() == stored.bfloat16()).float().mean()
    assert lost > 0.5, "weights kept in BF16 would have lost most of this update"


def test_bf16_losses_are_close_to_fp32() -> None:
    batch = batch_of(random_rows(8))
    half, full = (Trainer(tiny(), precision=kind).apply(0, batch).read().loss for kind in ("BF16", "FP32"))
    assert half != full
    assert half == pytest.approx(full, rel=2e-2)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    batch = batch_of(random_rows(8))
    settings = {clip: SETTINGS.model_copy(update={"gradient_clip": clip, "epsilon": 1e3}) for clip in (0.0, 0.01)}
    moved = {}
    for clip, chosen in settings.items():
        trainer = Trainer(tiny(), settings=chosen.model_copy(update={"weight_decay": 0.0}))
        before = weights(trainer)
        numbers = trainer.apply(0, batch, 1.0).read()
        moved[clip] = torch.cat([(weights(trainer)[name] - before[name]).flatten() for name in before]).norm()
    assert numbers.gradient_norm > 0.01, "the norm is that before clipping"
    assert float(moved[0.01] / moved[0.0]) == pytest.approx(0.01 / numbers.gradient_norm, rel=1e-2)


def test_the_rate_asked_for_is_the_rate_used_and_requests_travel_along() -> None:
    trainer = Trainer(tiny())
    outcome = trainer.apply(0, batch_of(random_rows(8)), 2.5e-4, stop=True)
    assert outcome.learning_rate == 2.5e-4
    assert (outcome.read().stop, outcome.read().commit) == (True, False)
    assert trainer.apply(1, batch_of(random_rows(8)), commit=True).read().commit


def test_random_numbers_are_a_function_of_seed_step_and_rank() -> None:
    def draw(*numbers: int) -> list[float]:
        reseed(*numbers)
        return torch.rand(3).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({tuple(draw(*numbers)) for numbers in ((1, 2, 3), (1, 2, 4), (1, 3, 2), (2, 1, 3), (12, 3, 0))}) == 5


def test_dropout_repeats_in_a_repeated_step() -> None:
    def losses(steps: list[int]) -> list[float]:
        trainer = Trainer(tiny("gpt2", embd_pdrop=0.5), seed=7)
        return [trainer.apply(step, batch_of(random_rows(8)), 0.0).read().loss for step in steps]

    first, second, again = losses([0, 1, 0])
    assert first == again != second
