"""Weights of rows by their loss: the paper's values, its limits, and an update that uses them right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LENGTH, SETTINGS, Trainer, batch_of, random_rows, tiny

from rewarm_trainer.batches import Batch
from rewarm_trainer.sample_weights import Weighting, importance, row_weights
from rewarm_trainer.update import Updater

STRATEGIES = ("LinUpper", "Quadratic", "Extremes")
# science.md section 16, l = (1, 2, 3, 4, 5), r = 0.4.
GOLDEN = {
    "LinUpper": (0.024368, 0.085052, 0.29686, 0.29686, 0.29686),
    "Quadratic": (0.036732, 0.239523, 0.447489, 0.239523, 0.036732),
    "Extremes": (0.376634, 0.107908, 0.030916, 0.107908, 0.376634),
}


def weights_of(losses: list[float], strategy: str, temperature: float, labels: float = 10.0) -> torch.Tensor:
    """The paper's w, which sums to 1."""
    values = torch.tensor(losses)
    found = row_weights(values * labels, torch.full_like(values, labels), Weighting(strategy, temperature, 0))
    return found / len(losses)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_of_the_paper(strategy: str) -> None:
    assert weights_of([1, 2, 3, 4, 5], strategy, 0.4).tolist() == pytest.approx(GOLDEN[strategy], abs=1e-6)


def test_importance_of_the_ends_and_the_middle() -> None:
    losses = torch.tensor([2.0, 3.0, 4.0])
    assert importance(losses, "LinUpper").tolist() == [0.0, 1.0, 1.0]
    assert importance(losses, "Quadratic").tolist() == [0.0, 1.0, 0.0]
    assert importance(losses, "Extremes").tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="expected LinUpper, Quadratic or Extremes"):
        importance(losses, "linupper")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_losses_and_a_high_temperature_weigh_the_same(strategy: str) -> None:
    assert weights_of([3.0] * 7, strategy, 0.1).tolist() == pytest.approx([1 / 7] * 7)
    assert weights_of([1, 2, 3, 4, 5], strategy, 1e9).tolist() == pytest.approx([0.2] * 5, rel=1e-6)


@given(
    st.lists(st.floats(0.01, 20.0), min_size=1, max_size=40),
    st.sampled_from(STRATEGIES),
    st.floats(0.01, 100.0),
    st.floats(0.1, 10.0),
)
@settings(deadline=None)
def test_weights_are_shares_that_know_no_unit(
    losses: list[float], strategy: str, temperature: float, unit: float
) -> None:
    found = weights_of(losses, strategy, temperature)
    assert float(found.sum()) == pytest.approx(1, rel=1e-5)
    assert float(found.min()) >= 0
    again = row_weights(
        torch.tensor(losses, dtype=torch.float64) * 7 * unit,
        torch.full((len(losses),), 7.0, dtype=torch.float64),
        Weighting(strategy, temperature, 0),
    )
    plain = row_weights(
        torch.tensor(losses, dtype=torch.float64) * 7,
        torch.full((len(losses),), 7.0, dtype=torch.float64),
        Weighting(strategy, temperature, 0),
    )
    # h is the same in any unit; what rounding leaves of a tiny spread is not.
    if max(losses) - min(losses) > 1e-6 * max(losses):
        assert again.tolist() == pytest.approx(plain.tolist(), rel=1e-4, abs=1e-9)
    low, high = int(np.argmin(losses)), int(np.argmax(losses))
    if strategy == "LinUpper":
        assert found[low] <= found[high] * (1 + 1e-6)


def test_a_row_without_labels_takes_no_part() -> None:
    nats, labels = torch.tensor([10.0, 0.0, 20.0, 60.0]), torch.tensor([10.0, 0.0, 10.0, 20.0])
    found = row_weights(nats, labels, Weighting("LinUpper", 0.4, 0))
    kept = row_weights(nats[[0, 2, 3]], labels[[0, 2, 3]], Weighting("LinUpper", 0.4, 0))
    assert found[1] == 0
    assert found[[0, 2, 3]].tolist() == kept.tolist()
    assert float(found.sum()) == pytest.approx(3)
    nothing = row_weights(torch.zeros(2), torch.zeros(2), Weighting("LinUpper", 0.4, 0))
    assert torch.isfinite(nothing).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_breaks_the_whole_update(broken: float) -> None:
    found = row_weights(torch.tensor([1.0, broken, 2.0]), torch.ones(3), Weighting("Extremes", 1.0, 0))
    assert torch.isnan(found).all()


def weighted(weighting: Weighting | None, micro_rows: int = 8, kind: str = "llama", **changes: float) -> Trainer:
    # A large epsilon makes the update proportional to the gradient instead of to its sign.
    trainer = Trainer(tiny(kind, **changes), settings=SETTINGS.model_copy(update={"epsilon": 1.0}))
    trainer.updater = Updater(
        trainer.accelerator,
        trainer.updater._module,
        trainer.optimizer,
        micro_rows=micro_rows,
        clip=0.0,
        seed=0,
        sources=1,
        weighting=weighting,
    )
    return trainer


def gradient_of_an_update(trainer: Trainer, batch: Batch) -> dict[str, torch.Tensor]:
    """The gradient that an update steps along, read as the optimizer steps."""
    seen: dict[str, torch.Tensor] = {}
    step = trainer.optimizer.step

    def read() -> None:
        seen.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        step()

    trainer.optimizer.step = read  # type: ignore[method-assign]
    trainer.apply(0, batch)
    return seen


@pytest.mark.parametrize("micro_rows", [8, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_update_follows_the_weighted_loss_over_the_whole_batch(strategy: str, micro_rows: int) -> None:
    batch = batch_of(random_rows(8))
    weighting = Weighting(strategy, 0.4, 0)
    found = gradient_of_an_update(weighted(weighting, micro_rows), batch)
    plain = weighted(None)
    nats = plain.losses(*(torch.from_numpy(part) for part in (batch.inputs, batch.labels, batch.positions))).sum(1)
    labels = torch.from_numpy((batch.labels != -100).sum(1)).float()
    weights = row_weights(nats.detach(), labels, weighting)
    assert weights.max() > 1.5 * weights.min()
    (weights * nats).sum().div(batch.valid).backward()
    for name, parameter in plain.model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name  # type: ignore[arg-type]


def test_without_weighting_and_while_uniform_the_bits_are_the_same() -> None:
    batch = batch_of(random_rows(8))
    tokens = 8 * LENGTH
    ways = {"off": None, "not yet": Weighting("LinUpper", 0.4, tokens), "on": Weighting("LinUpper", 0.4, tokens - 1)}
    found = {name: gradient_of_an_update(weighted(weighting), batch) for name, weighting in ways.items()}
    assert all(torch.equal(found["off"][name], found["not yet"][name]) for name in found["off"])
    assert not all(torch.equal(found["off"][name], found["on"][name]) for name in found["off"])


def test_an_infinite_temperature_is_the_plain_mean_over_labels() -> None:
    batch = batch_of(random_rows(8))
    off, uniform = (gradient_of_an_update(weighted(way), batch) for way in (None, Weighting("Extremes", 1e9, 0)))
    assert all(torch.allclose(off[name], uniform[name], atol=1e-7) for name in off)


def test_dropout_weighs_the_losses_that_it_trains_on() -> None:
    """Both passes drop out the same units; so a repeated step repeats, and equal rows stay equal."""
    batch = batch_of(random_rows(8))
    way = Weighting("LinUpper", 0.4, 0)
    trainers = [weighted(way, kind="gpt2", embd_pdrop=0.5) for _ in range(2)]
    first, second = (gradient_of_an_update(trainer, batch) for trainer in trainers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    again, seen = weighted(way, kind="gpt2", embd_pdrop=0.5), []
    again.losses.register_forward_hook(lambda module, inputs, output: seen.append(output))
    again.apply(0, batch)
    weighing, (_, training) = seen
    torch.testing.assert_close(weighing, training)


def test_the_loss_told_is_the_plain_one() -> None:
    batch = batch_of(random_rows(8))
    plain, chosen = (weighted(way).apply(0, batch).read().loss for way in (None, Weighting("Extremes", 0.1, 0)))
    assert plain == chosen
