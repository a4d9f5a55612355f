"""Saving and restoring: tied weights once, the optimizer exactly, the newest good checkpoint or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import Trainer, batch_of, collect, plan_of, random_rows, tiny

from rewarm_api.errors import DataError
from rewarm_trainer import model as models
from rewarm_trainer.checkpoint import OPTIMIZER, WEIGHTS, Checkpoint, Checkpoints
from rewarm_trainer.keeper import Keeper, load_optimizer, load_weights, optimizer_tensors, reset_moments, weights_of
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.storage import LocalStorage

PLAN = plan_of(10)


def state_at(step: int) -> TrainState:
    order = Order([Phase(0, 0.0)], seed=1, rows_per_step=8, sizes={"a": 100}, corpus={"a": 1}, replay={})
    state = TrainState(experiment="sha256:x", seed=1)
    state.advance(order, PLAN, step)
    return state


def trained(model: torch.nn.Module | None = None, steps: int = 2) -> Trainer:
    trainer = Trainer(model or tiny())
    for step in range(steps):
        trainer.apply(step, batch_of(random_rows(8, seed=step)))
    return trainer


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    tensors = {**trainer.model.state_dict(), **optimizer_tensors(trainer.model, trainer.optimizer)}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def open_keeper(tmp_path: Path) -> Callable[..., tuple[Keeper, list[dict[str, Any]]]]:
    def open_(trainer: Trainer, keep: int = 3) -> tuple[Keeper, list[dict[str, Any]]]:
        checkpoints = Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "staging")
        checkpoints.claim({"pid": 1})
        records, listen = collect()
        keeper = Keeper(
            checkpoints=checkpoints,
            model=trainer.model,
            optimizer=trainer.optimizer,
            load_base=lambda: state_at(0),
            companions=lambda: [],
            config=lambda folder: trainer.model.config.save_pretrained(folder),
            keep=keep,
            rank=0,
            world=1,
            listen=listen,
            before_commit=lambda: None,
        )
        return keeper, records

    return open_


def committed(keeper: Keeper) -> Checkpoint:
    keeper.wait()
    assert keeper.last is not None
    return keeper.last


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_a_checkpoint_is_a_model_and_keeps_tied_weights_once(open_keeper, kind: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    trainer = trained(tiny(kind, tie_word_embeddings=tied))
    keeper, _ = open_keeper(trainer)
    keeper.commit(state_at(2), wait=True)
    folder = committed(keeper).folder
    names = load_file(folder / WEIGHTS).keys()
    heads = {"lm_head.weight", "embed_out.weight"}
    assert len(names) == len(list(trainer.model.parameters())), "each weight once"
    assert (not heads & names) == tied
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(loaded.eval()(inputs).logits, trainer.model.eval()(inputs).logits)


def test_a_restored_run_goes_on_bit_for_bit(open_keeper) -> None:
    trainer = trained()
    keeper, records = open_keeper(trainer)
    keeper.commit(state_at(2), wait=False)
    at_commit = everything(trainer)
    later = [trainer.apply(step, batch_of(random_rows(8, seed=step))).read() for step in (2, 3)]
    went_on = everything(trainer)
    assert not equal(at_commit, went_on)
    state = keeper.restore()
    assert state.seconds.pop("checkpoint") > 0
    assert state == state_at(2)
    assert equal(everything(trainer), at_commit), "a commit is a copy: later updates are not in it"
    again = [trainer.apply(step, batch_of(random_rows(8, seed=step))).read() for step in (2, 3)]
    assert (again, equal(everything(trainer), went_on)) == (later, True)
    # Another process: a new model and a new optimizer.
    fresh = Trainer(tiny(seed=9))
    open_keeper(fresh)[0].restore()
    assert equal(everything(fresh), at_commit)
    assert [(r["event"], r["step"], r["tokens"], r["pruned"]) for r in records] == [
        ("checkpoint committed", 2, 2 * PLAN.tokens_per_step, [])
    ]


def test_without_a_commit_the_base_is_loaded(open_keeper) -> None:
    keeper, _ = open_keeper(trained())
    assert keeper.restore() == state_at(0)
    assert keeper.last is None


def test_a_flipped_byte_falls_back_to_the_checkpoint_before_and_says_so(open_keeper) -> None:
    trainer = trained()
    keeper, records = open_keeper(trainer)
    keeper.commit(state_at(2), wait=True)
    first = everything(trainer)
    trainer.apply(2, batch_of(random_rows(8)))
    keeper.commit(state_at(3), wait=True)
    broken = committed(keeper).folder / OPTIMIZER
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    assert keeper.restore().step == 2
    assert equal(everything(trainer), first)
    (warning,) = [record["message"] for record in records if record["event"] == "warning"]
    assert "step-00000003 is not used" in warning
    assert OPTIMIZER in warning


def test_the_newest_and_the_best_are_kept(open_keeper) -> None:
    keeper, records = open_keeper(trained(), keep=2)

    def judged(step: int) -> TrainState:
        state = state_at(step)
        means = {1: -0.5, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4}
        state.evaluations = [
            {"step": past, "sets": {"s": {"delta": {"mean": means[past]}}}} for past in range(1, step + 1)
        ]
        return state

    for step in range(1, 6):
        keeper.commit(judged(step), wait=True)
    assert [record["pruned"] for record in records] == [[], [], [], [2], [3]]
    folder = committed(keeper).folder.parent
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000001", "step-00000004", "step-00000005"]


def test_weights_of_another_model_are_refused() -> None:
    model = tiny()
    with pytest.raises(DataError, match=r"here: 1 weights do not fit this model, the first is model\.norm\.weight"):
        load_weights(model, {n: t for n, t in weights_of(model).items() if n != "model.norm.weight"}, "here")
    wider = {**weights_of(model), "model.norm.weight": torch.ones(17)}
    with pytest.raises(DataError, match=r"here: model\.norm\.weight has shape \(17,\), the model expects \(16,\)"):
        load_weights(model, wider, "here")


def test_reset_moments_zeroes_moments_and_step_counts() -> None:
    trainer = trained()
    tensors = optimizer_tensors(trainer.model, trainer.optimizer)
    assert {key.split("/")[0] for key in tensors} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(tensors) == 3 * len(list(trainer.model.parameters()))
    assert all(bool(tensor.any()) for tensor in tensors.values())
    reset_moments(trainer.optimizer)
    assert not any(bool(tensor.any()) for tensor in tensors.values())
    # And the first update after it is that of a fresh optimizer.
    fresh = Trainer(tiny(seed=9))
    fresh.model.load_state_dict(trainer.model.state_dict())
    for each in (trainer, fresh):
        each.apply(0, batch_of(random_rows(8)))
    assert equal(everything(trainer), everything(fresh))


def test_settings_never_come_from_a_file() -> None:
    trainer = trained()
    for group in trainer.optimizer.param_groups:
        group["betas"] = (0.5, 0.6)
    fresh = Trainer(tiny())
    before = [{**group, "params": None} for group in fresh.optimizer.param_groups]
    load_optimizer(fresh.model, fresh.optimizer, optimizer_tensors(trainer.model, trainer.optimizer))
    assert [{**group, "params": None} for group in fresh.optimizer.param_groups] == before


def test_moments_of_frozen_weights_are_left_out() -> None:
    trainer = trained()
    fresh = tiny()
    models.freeze(fresh, ["*embed_tokens*"])
    frozen = Trainer(fresh)
    load_optimizer(frozen.model, frozen.optimizer, optimizer_tensors(trainer.model, trainer.optimizer))
    kept = optimizer_tensors(frozen.model, frozen.optimizer)
    assert {key.split("/")[1] for key in kept} == {n for n, p in fresh.named_parameters() if p.requires_grad}
    frozen.apply(0, batch_of(random_rows(8)))


@pytest.mark.parametrize(("before", "after"), [("Full", "None"), ("None", "Selective"), ("Full", "Selective")])
def test_moments_are_found_again_under_another_way_to_recompute(before: str, after: str) -> None:
    """A run may keep the optimizer of one that checkpointed activations in another way."""
    one, other = tiny(), tiny(seed=9)
    models.checkpoint_activations(one, before)
    models.checkpoint_activations(other, after)
    trainer = trained(one)
    fresh = Trainer(other)
    saved = optimizer_tensors(trainer.model, trainer.optimizer)
    assert not any("wrapped" in key for key in saved)
    load_optimizer(fresh.model, fresh.optimizer, saved)
    assert equal(optimizer_tensors(fresh.model, fresh.optimizer), saved)


def test_moments_of_another_model_are_refused() -> None:
    trainer = trained()
    fresh = Trainer(tiny("gpt2"))
    with pytest.raises(DataError, match=r"optimizer state .* model\.embed_tokens\.weight"):
        load_optimizer(fresh.model, fresh.optimizer, optimizer_tensors(trainer.model, trainer.optimizer))
