"""The Reptile step: its identities, what it leaves alone, and exact resume inside a period."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import Trainer, batch_of, collect, random_rows, tiny

from rewarm_api.errors import DataError
from rewarm_trainer.checkpoint import Checkpoints
from rewarm_trainer.keeper import Keeper, optimizer_tensors, parameters_of
from rewarm_trainer.methods.meta_experience import ANCHOR, MetaExperience
from rewarm_trainer.order import Order, Phase
from rewarm_trainer.state import TrainState
from rewarm_trainer.storage import LocalStorage

INTERVAL, LAST = 3, 8


class Run:
    """A small model that trains under the method, with checkpoints of its own."""

    def __init__(self, root: Path, epsilon: float | None, *, interval: int = INTERVAL, last: int = LAST) -> None:
        self.trainer = Trainer(tiny("gpt2", embd_pdrop=0.1))
        self.base = self.weights()
        self.method = None
        if epsilon is not None:
            trained = parameters_of(self.trainer.model)
            self.method = MetaExperience(trained, interval=interval, epsilon=epsilon, last=last)
        self.checkpoints = Checkpoints(LocalStorage(root / "checkpoints"), root / "staging")
        self.checkpoints.claim({"pid": 1})
        self.records, listen = collect()
        self.keeper = Keeper(
            checkpoints=self.checkpoints,
            model=self.trainer.model,
            optimizer=self.trainer.optimizer,
            load_base=self._load_base,
            companions=lambda: [],
            config=lambda folder: self.trainer.model.config.save_pretrained(folder),
            keep=10,
            rank=0,
            world=1,
            listen=listen,
            before_commit=lambda: None,
            extras=[self.method] if self.method else [],
        )

    def _load_base(self) -> TrainState:
        self.trainer.model.load_state_dict(self.base)
        self.trainer.optimizer.state.clear()
        return TrainState(experiment="sha256:x")

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trainer.model.state_dict().items()}

    def moments(self) -> dict[str, torch.Tensor]:
        tensors = optimizer_tensors(self.trainer.model, self.trainer.optimizer)
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def train(self, first: int, last: int) -> Run:
        for step in range(first, last + 1):
            self.trainer.apply(step - 1, batch_of(random_rows(8, seed=step)))
            if self.method:
                self.method.after_update(step)
        return self

    def commit(self, step: int) -> None:
        order = Order([Phase(0, 0.0)], seed=1, rows_per_step=8, sizes={"a": 100}, corpus={"a": 1}, replay={})
        state = TrainState(experiment="sha256:x", step=step, tokens=step * 8, cursors=order.cursors(step))
        self.keeper.commit(state, wait=True)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda name, epsilon, **options: Run(tmp_path / name, epsilon, **options)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_epsilon_one_changes_no_bit(run: Callable[..., Run]) -> None:
    assert equal(run("one", 1.0).train(1, LAST).weights(), run("plain", None).train(1, LAST).weights())


def test_epsilon_zero_stands_still_at_every_periods_end(run: Callable[..., Run]) -> None:
    frozen = run("zero", 0.0)
    assert not equal(frozen.train(1, INTERVAL - 1).weights(), frozen.base), "inside a period the weights move"
    assert equal(frozen.train(INTERVAL, INTERVAL).weights(), frozen.base)
    assert equal(frozen.train(INTERVAL + 1, LAST).weights(), frozen.base), "a partial period at the end is closed too"


def test_a_period_ends_a_tenth_of_the_way_and_moments_are_left_alone(run: Callable[..., Run]) -> None:
    slow, plain = run("slow", 0.1).train(1, INTERVAL), run("plain", None).train(1, INTERVAL)
    base, fast = slow.base, plain.weights()
    for name, tensor in slow.weights().items():
        expected = base[name] + 0.1 * (fast[name] - base[name]) if tensor.is_floating_point() else tensor
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
    assert equal(slow.moments(), plain.moments())


def test_an_interval_of_one_scales_the_rate_of_sgd() -> None:
    torch.manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(5)) for name in ("meta", "plain")}
    weights["plain"].data.copy_(weights["meta"].data)
    method = MetaExperience({"w": weights["meta"]}, interval=1, epsilon=0.25, last=10)
    for name, rate in (("meta", 0.4), ("plain", 0.1)):
        optimizer = torch.optim.SGD([weights[name]], lr=rate)
        for step in range(1, 11):
            optimizer.zero_grad()
            (weights[name] - 3).square().sum().backward()
            optimizer.step()
            if name == "meta":
                method.after_update(step)
    torch.testing.assert_close(weights["meta"], weights["plain"])


@pytest.mark.parametrize("stopped_at", [1, 2, 3, 4, 7])
def test_resume_inside_a_period_is_exact(run: Callable[..., Run], stopped_at: int) -> None:
    whole = run("whole", 0.1).train(1, LAST)
    killed = run("killed", 0.1).train(1, stopped_at)
    killed.commit(stopped_at)
    resumed = run("killed", 0.1)
    assert resumed.keeper.restore().step == stopped_at
    resumed.train(stopped_at + 1, LAST)
    assert equal(resumed.weights(), whole.weights())
    assert equal(resumed.moments(), whole.moments())


def test_back_at_the_base_a_period_begins_there(run: Callable[..., Run]) -> None:
    trained = run("a", 0.0).train(1, 2)
    assert trained.keeper.restore().step == 0
    assert equal(trained.train(1, INTERVAL).weights(), trained.base)


def test_the_periods_start_is_verified_like_any_other_file(run: Callable[..., Run]) -> None:
    broken = run("a", 0.1).train(1, 1)
    broken.commit(1)
    broken.train(2, 2).commit(2)
    folder = broken.checkpoints.verify(2).folder
    assert load_file(folder / ANCHOR).keys() == parameters_of(broken.trainer.model).keys()
    data = bytearray((folder / ANCHOR).read_bytes())
    data[-1] ^= 1
    (folder / ANCHOR).write_bytes(data)
    with pytest.raises(DataError, match=ANCHOR):
        broken.checkpoints.verify(2)
    assert run("a", 0.1).keeper.restore().step == 1, "the checkpoint before it is taken"


def test_a_checkpoint_without_the_periods_start_is_refused(run: Callable[..., Run]) -> None:
    run("a", None).train(1, 1).commit(1)
    with pytest.raises(DataError, match=r"anchor\.safetensors: missing"):
        run("a", 0.1).keeper.restore()


@pytest.mark.parametrize("tensors", [{}, {"w": torch.zeros(3)}, {"v": torch.zeros(2)}])
def test_the_start_of_another_models_period_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    method = MetaExperience({"w": torch.nn.Parameter(torch.zeros(2))}, interval=2, epsilon=0.1, last=4)
    with pytest.raises(DataError, match="here: "):
        method.load(tensors, "here")
