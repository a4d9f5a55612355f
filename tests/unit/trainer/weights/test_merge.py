"""Merged folders: whole models that transformers loads, in bounded memory; models that do not fit are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny

from rewarm_api.errors import DataError, ManifestError, MissingInputError
from rewarm_trainer.corpus.tokenizer import train_tokenizer
from rewarm_trainer.weights import recipes, tensors
from rewarm_trainer.weights.merge import bake
from rewarm_trainer.weights.tensors import Tensors


def save(folder: Path, seed: int = 3, kind: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    tiny(kind, seed, **changes).to(dtype).save_pretrained(folder)
    return folder


def opened(*folders: Path) -> list[Tensors]:
    return [Tensors(folder, folder.name) for folder in folders]


def baked(recipe: recipes.Recipe, out: Path, dtype: str | None = None) -> dict[str, torch.Tensor]:
    bake(recipe, out, dtype, {}, card=lambda lineage: "card\n")
    return load_file(out / "model.safetensors")


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"seed-{seed}", seed) for seed in (1, 2, 3)]


def loaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_soup_is_the_mean_and_loads(tmp_path: Path, kind: str, tied: bool) -> None:
    folders = [save(tmp_path / str(seed), seed, kind, tie_word_embeddings=tied) for seed in (1, 2, 3)]
    models = opened(*folders)
    baked(recipes.soup(models, [0, 1, 2]), tmp_path / "soup")
    parts = [dict(loaded(folder).named_parameters()) for folder in folders]
    found = dict(loaded(tmp_path / "soup").named_parameters())
    assert found.keys() == parts[0].keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.stack([part[name] for part in parts]).mean(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("piece", [1, 37, 1 << 24])
def test_pieces_change_nothing(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(tensors, "PIECE", piece)
    models = opened(*three)
    largest = 0

    def watched(parts: Any) -> Any:
        nonlocal largest
        largest = max(largest, parts[0].size)
        return average.formula(parts)

    average = recipes.average(models, "EMA", 0.3)
    recipe = recipes.Recipe("average", tuple(models), watched, average.details, like=2)
    found = baked(recipe, tmp_path / "out")
    whole = [load_file(folder / "model.safetensors") for folder in three]
    expected = {name: 0.49 * whole[0][name] + 0.21 * whole[1][name] + 0.3 * whole[2][name] for name in found}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    widest = max(tensor.shape[-1] for tensor in found.values())
    assert largest <= max(piece, widest)


def test_identical_models_give_themselves_to_the_bit(tmp_path: Path) -> None:
    folder = save(tmp_path / "one", dtype=torch.bfloat16)
    model = opened(folder)[0]
    before = load_file(folder / "model.safetensors")
    made = {
        "average": recipes.average([model] * 7),
        "interpolate": recipes.interpolation(model, model, 0.3),
        "residual": recipes.instruction_residual(model, model, model),
        "copy": recipes.plain(model),
    }
    for name, recipe in made.items():
        after = baked(recipe, tmp_path / name)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) and after[key].dtype == torch.bfloat16 for key in before), name


def test_without_new_text_the_residual_is_the_instruct_model(tmp_path: Path) -> None:
    """Also when the trained base was kept in float32 and the others in bfloat16."""
    base, instruct = (save(tmp_path / str(seed), seed, dtype=torch.bfloat16) for seed in (1, 2))
    weights = load_file(base / "model.safetensors")
    trained = tmp_path / "trained"
    shutil.copytree(base, trained)
    save_file({name: tensor.float() for name, tensor in weights.items()}, trained / "model.safetensors")
    (instruct / "chat_template.jinja").write_text("{{ messages }}")
    made = baked(recipes.instruction_residual(*opened(trained, instruct, base)), tmp_path / "out")
    wanted = load_file(instruct / "model.safetensors")
    assert all(torch.equal(made[name], wanted[name]) for name in wanted)
    assert made.keys() == wanted.keys()
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_shards_and_names_without_the_prefix_fit(tmp_path: Path) -> None:
    """GPT-2 on the hub has no `transformer.` before its names, and carries masks along."""
    one, two = (save(tmp_path / str(seed), seed, "gpt2") for seed in (1, 2))
    weights = load_file(one / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    names = sorted(bare)
    (one / "model.safetensors").unlink()
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: bare[name] for name in part}, one / f"model-0000{number}-of-00002.safetensors")
    made = baked(recipes.interpolation(*opened(two, one), 0.5), tmp_path / "out")
    other = load_file(two / "model.safetensors")
    assert made.keys() == other.keys()
    torch.testing.assert_close(
        made["transformer.h.0.ln_1.weight"],
        (weights["transformer.h.0.ln_1.weight"] + other["transformer.h.0.ln_1.weight"]) / 2,
    )


def test_what_is_no_float_is_copied_from_the_pattern(three: list[Path], tmp_path: Path) -> None:
    for number, folder in enumerate(three):
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, "counter": torch.tensor([number, 7])}, folder / "model.safetensors")
    made = baked(recipes.soup(opened(*three), [0, 1, 2]), tmp_path / "out")
    assert made["counter"].tolist() == [0, 7]


def test_lineage_names_every_ingredient(three: list[Path], tmp_path: Path) -> None:
    models = opened(*three)
    known = {three[0]: {"run": "stage-1", "step": 40}}
    result = bake(recipes.average(models[:2]), tmp_path / "out", "BF16", known, lambda lineage: lineage["kind"])
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert lineage == result.lineage
    assert (lineage["kind"], lineage["average"], lineage["type"]) == ("average", "SMA", "BF16")
    first, second = lineage["inputs"]
    assert first == {"label": "seed-1", "digest": models[0].digest, "run": "stage-1", "step": 40, "coefficient": 0.5}
    assert second["digest"] != first["digest"]
    assert (tmp_path / "out" / "README.md").read_text() == "average"


def refused(recipe: recipes.Recipe, out: Path) -> str:
    with pytest.raises(DataError) as caught:
        bake(recipe, out, None, {}, card=lambda lineage: "")
    assert not out.exists(), "nothing is written"
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    base, grown = save(tmp_path / "base"), save(tmp_path / "grown", vocab_size=64)
    message = refused(recipes.interpolation(*opened(base, grown), 0.5), tmp_path / "out")
    assert "grown: embed_tokens.weight has shape (64, 16), in base it has (50, 16): another vocabulary" in message


def test_another_shape_is_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one"), save(tmp_path / "two", intermediate_size=48)
    assert "has shape" in refused(recipes.soup(opened(one, two), [0, 1]), tmp_path / "out")


def test_another_depth_is_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one"), save(tmp_path / "two", num_hidden_layers=3)
    assert "one: 9 weights of two are not there" in refused(recipes.soup(opened(one, two), [0, 1]), tmp_path / "out")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one"), save(tmp_path / "two", kind="qwen2")
    message = refused(recipes.soup(opened(one, two), [0, 1]), tmp_path / "out")
    assert "two: model_type is qwen2, that of one is llama" in message


def test_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    """The shapes agree, the model does not."""
    one = save(tmp_path / "one", num_key_value_heads=2)
    two = save(tmp_path / "two", num_attention_heads=4, num_key_value_heads=4)
    assert "num_attention_heads is 4" in refused(recipes.soup(opened(one, two), [0, 1]), tmp_path / "out")


def test_another_tokenizer_is_refused_and_another_end_is_not(three: list[Path], tmp_path: Path) -> None:
    for folder, text in zip(three, ("aaaa abab", "aaaa abab", "zyzy zzyz"), strict=True):
        train_tokenizer([text * 50], 260, folder)
    config = json.loads((three[1] / "tokenizer_config.json").read_text())
    (three[1] / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "a"}))
    baked(recipes.soup(opened(*three[:2]), [0, 1]), tmp_path / "fits")
    message = refused(recipes.soup(opened(*three), [0, 2]), tmp_path / "out")
    assert "seed-3: its tokenizer gives other ids than that of seed-1" in message


def test_a_torn_file_and_pickles_are_refused(three: list[Path], tmp_path: Path) -> None:
    path = three[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "safetensors" in refused(recipes.soup(opened(*three), [0, 1]), tmp_path / "out")
    path.rename(three[1] / "pytorch_model.bin")
    assert "expected safetensors" in refused(recipes.soup(opened(*three), [0, 1]), tmp_path / "out")
    with pytest.raises(MissingInputError, match="no such base model"):
        bake(recipes.plain(Tensors(tmp_path / "nothing", "nothing")), tmp_path / "out", None, {}, lambda lineage: "")


def test_a_folder_that_holds_something_is_not_written_to(three: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="which is not empty"):
        bake(recipes.plain(opened(three[0])[0]), three[1], None, {}, lambda lineage: "")
    (tmp_path / "empty").mkdir()
    baked(recipes.plain(opened(three[0])[0]), tmp_path / "empty")
