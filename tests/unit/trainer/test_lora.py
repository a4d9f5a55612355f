"""LoRA: nothing at the start, the same merged as apart, exact on resume, and a base that never moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import SETTINGS, Trainer, batch_of, collect, random_rows, tiny

from rewarm_api.errors import DataError
from rewarm_api.snapshot import Lora
from rewarm_trainer import lora
from rewarm_trainer import model as models
from rewarm_trainer.checkpoint import Checkpoints
from rewarm_trainer.keeper import Keeper, optimizer_tensors, weights_of
from rewarm_trainer.looks import rounded_to, weights_digest
from rewarm_trainer.state import TrainState
from rewarm_trainer.storage import LocalStorage

SIZE = Lora(rank=4, alpha=8.0)
KINDS = ("llama", "gpt2", "gpt_neox")


def adapted(kind: str = "llama", seed: int = 3, **changes: object) -> torch.nn.Module:
    model = tiny(kind, seed, **changes)
    lora.add_adapters(model, SIZE, seed=7)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    inputs = torch.from_numpy(random_rows(4, seed=9)[:, :-1])
    with torch.no_grad():
        return model.eval()(inputs).logits


def trained(model: torch.nn.Module, steps: int = 3) -> Trainer:
    trainer = Trainer(model)
    for step in range(steps):
        trainer.apply(step, batch_of(random_rows(8, seed=step)), rate=1e-2)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_to_the_bit(kind: str) -> None:
    base = tiny(kind)
    model = adapted(kind)
    assert torch.equal(logits(model), logits(base))
    assert weights_digest(model) == weights_digest(base), "and its baseline is found in the cache"
    plain = weights_of(base)
    assert lora.plain_weights(model).keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in lora.merged_weights(model).items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_map_of_the_blocks_and_nothing_else(kind: str) -> None:
    model = tiny(kind)
    names = lora.linear_names(model)
    maps = {"llama": 7, "gpt2": 4, "gpt_neox": 4}[kind]
    assert len(names) == 2 * maps
    assert not any("embed" in name or "lm_head" in name for name in names)
    model = adapted(kind)
    assert sorted(name for name, _ in lora.layers(model)) == sorted(names)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * len(names)
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged_and_the_base_stays(kind: str, tied: bool) -> None:
    base = weights_of(tiny(kind, tie_word_embeddings=tied))
    model = adapted(kind, tie_word_embeddings=tied)
    trained(model)
    apart = logits(model)
    merged = lora.merged_weights(model)
    other = tiny(kind, seed=11, tie_word_embeddings=tied)
    other.load_state_dict(merged, strict=False)
    assert merged.keys() == weights_of(other).keys()
    torch.testing.assert_close(logits(other), apart, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(apart, logits(tiny(kind, tie_word_embeddings=tied)), atol=1e-3), "it did learn"
    assert all(torch.equal(tensor, base[name]) for name, tensor in lora.plain_weights(model).items())


def test_the_change_is_the_formula() -> None:
    model = adapted()
    trained(model)
    before, after = lora.plain_weights(model), lora.merged_weights(model)
    for name, layer in lora.layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert a.shape[0] == b.shape[1] == SIZE.rank
        change = SIZE.alpha / SIZE.rank * (b @ a)
        torch.testing.assert_close(after[f"{name}.weight"] - before[f"{name}.weight"], change, rtol=1e-4, atol=1e-6)


def test_a_rank_as_large_as_the_map_can_reach_any_change() -> None:
    """Of W = W0 + (alpha/r) B A with r = min(d_in, d_out): any target is reached to rounding."""
    model = tiny()
    lora.add_adapters(model, Lora(rank=16, alpha=16.0), seed=7)
    name, layer = next(lora.layers(model))
    target = torch.randn_like(lora.plain_weights(model)[f"{name}.weight"])
    with torch.no_grad():
        a = layer.lora_A["default"].weight
        layer.lora_B["default"].weight.copy_(target @ torch.linalg.pinv(a))
    change = lora.merged_weights(model)[f"{name}.weight"] - lora.plain_weights(model)[f"{name}.weight"]
    torch.testing.assert_close(change, target, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_judged_is_what_is_exported_and_all_comes_back(dtype: torch.dtype) -> None:
    model = adapted()
    trained(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = {name: tensor.to(dtype).float() for name, tensor in lora.merged_weights(model).items()}
    other = tiny(seed=11)
    other.load_state_dict(exported, strict=False)
    with rounded_to(model, dtype):
        torch.testing.assert_close(logits(model), logits(other), rtol=1e-6, atol=1e-6)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    torch.testing.assert_close(logits(model), logits(model))


@pytest.mark.parametrize("how", ["None", "Full", "Selective"])
def test_a_checkpoint_resumes_to_the_bit_and_loads_anywhere(tmp_path: Path, how: str) -> None:
    from transformers import AutoModelForCausalLM

    def keeper_of(trainer: Trainer, config: dict[str, object]) -> Keeper:
        checkpoints = Checkpoints(LocalStorage(tmp_path / "checkpoints"), tmp_path / "staging")
        checkpoints.claim({"pid": 1})
        _, listen = collect()
        return Keeper(
            checkpoints=checkpoints, model=trainer.model, optimizer=trainer.optimizer, load_base=TrainState,  # type: ignore[arg-type]
            companions=lambda: [], config=lambda folder: trainer.model.config.save_pretrained(folder), keep=3, rank=0,
            world=1, listen=listen, before_commit=lambda: None, saved=lora.LoraWeights(trainer.model, config),
        )  # fmt: skip

    def fresh(seed: int) -> tuple[Trainer, dict[str, object]]:
        model = tiny()
        config = lora.add_adapters(model, SIZE, seed=seed)
        models.checkpoint_activations(model, how)
        return Trainer(model), config

    trainer, config = fresh(7)
    for step in range(2):
        trainer.apply(step, batch_of(random_rows(8, seed=step)), rate=1e-2)
    keeper = keeper_of(trainer, config)
    keeper.commit(TrainState("x", step=2, tokens=8), wait=True)
    assert keeper.last is not None
    folder = keeper.last.folder
    later = [trainer.apply(step, batch_of(random_rows(8, seed=step)), rate=1e-2).read() for step in (2, 3)]
    other, config = fresh(8)
    assert keeper_of(other, config).restore().step == 2
    again = [other.apply(step, batch_of(random_rows(8, seed=step)), rate=1e-2).read() for step in (2, 3)]
    assert again == later
    ended, reached = (lora.adapter_weights(each.model) for each in (trainer, other))
    assert all(torch.equal(tensor, reached[name]) for name, tensor in ended.items())
    names = {key.split("/", 1)[1] for key in optimizer_tensors(other.model, other.optimizer)}
    assert all(".lora_" in name for name in names), "only the adapters have moments"
    assert len(names) == 2 * 14
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    keeper_of(other, config).restore()
    torch.testing.assert_close(logits(loaded), logits(other.model), rtol=1e-5, atol=1e-5)


def test_peft_loads_the_adapter_of_a_checkpoint(tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file

    model = tiny()
    config = lora.add_adapters(model, SIZE, seed=7)
    trained(model)
    saved = lora.LoraWeights(model, config)
    (tmp_path / "adapter").mkdir()
    saved.companions(tmp_path)
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in saved.files()[lora.FILE].items()}, tmp_path / lora.FILE
    )
    assert json.loads((tmp_path / lora.CONFIG).read_text())["r"] == SIZE.rank
    theirs = PeftModel.from_pretrained(tiny(), tmp_path / "adapter")
    torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-5, atol=1e-5)


def test_the_start_is_a_function_of_the_seed() -> None:
    one, two, three = tiny(), tiny(), tiny()
    torch.manual_seed(1)
    lora.add_adapters(one, SIZE, seed=7)
    torch.manual_seed(2)
    lora.add_adapters(two, SIZE, seed=7)
    lora.add_adapters(three, SIZE, seed=8)
    first, second, third = (lora.adapter_weights(model) for model in (one, two, three))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, third[name]) for name, tensor in first.items())
    trained(one)
    lora.start(one, 7)
    assert all(torch.equal(tensor, second[name]) for name, tensor in lora.adapter_weights(one).items())


def test_the_optimizer_has_the_settings_of_the_manifest() -> None:
    trainer = trained(adapted(), steps=1)
    (group,) = trainer.optimizer.param_groups
    assert len(group["params"]) == 2 * 14
    assert (group["betas"], group["eps"], group["weight_decay"]) == (
        (SETTINGS.beta1, SETTINGS.beta2),
        SETTINGS.epsilon,
        SETTINGS.weight_decay,
    )


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    small = tiny()
    lora.add_adapters(small, Lora(rank=2, alpha=4.0), seed=7)
    (tmp_path / "adapter").mkdir()
    save_file({name: tensor.detach() for name, tensor in lora.adapter_weights(small).items()}, tmp_path / lora.FILE)
    model = adapted()
    with pytest.raises(DataError, match="has shape"):
        lora.LoraWeights(model, {}).load(tmp_path)
    with pytest.raises(DataError, match="was not made with adaptation LoRA"):
        lora.LoraWeights(model, {}).load(tmp_path / "adapter")
    assert load_file(tmp_path / lora.FILE)
