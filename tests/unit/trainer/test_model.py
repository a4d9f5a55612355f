"""The model: any architecture, FP32 masters, documents that do not see each other, groups, freezing, recomputation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, EOS, LENGTH, SETTINGS, VOCABULARY, Table, batch_of, random_rows, tiny

from rewarm_api.errors import DataError, ManifestError
from rewarm_trainer import evaluation, model
from rewarm_trainer.batches import Batch, assemble
from rewarm_trainer.corpus.sets import EvaluationDocuments
from rewarm_trainer.model import TokenLosses
from rewarm_trainer.order import Draw

DOCUMENTS = [[7, 8, 9, 10, 11, 12, 13], [20, 21, 22], [30, 31, 32, 33, 34, 35, 36, 37, 38]]


def packed(*, masking: bool) -> Batch:
    row = [token for document in DOCUMENTS for token in [*document, EOS]]
    return assemble(
        [Draw("a", np.array([0]), np.array([0]), np.array([0]))],
        {"a": Table(np.array([row]))},
        {"a": 0},
        eos=EOS,
        masking=masking,
    )


def nats(losses: TokenLosses, batch: Batch) -> torch.Tensor:
    positions = None if batch.positions is None else torch.from_numpy(batch.positions)
    return losses(torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels), positions)


def lone(losses: TokenLosses) -> torch.Tensor:
    """Losses of each document by itself, where a row of all of them would have them; 0 at a document's first token."""
    parts = []
    for document in DOCUMENTS:
        whole = torch.tensor([[*document, EOS]])
        parts += [losses(whole[:, :-1], whole[:, 1:], None)[0], torch.zeros(1)]
    return torch.cat(parts[:-1])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_packed_documents_have_the_losses_of_lone_ones(kind: str) -> None:
    losses = TokenLosses(tiny(kind)).train()  # as in training: dropout is 0 here
    with torch.no_grad():
        assert (nats(losses, packed(masking=True))[0] - lone(losses)).abs().max() < 1e-5
        unmasked = nats(losses, packed(masking=False))[0]
    difference = (unmasked - lone(losses)).abs()
    assert difference[: len(DOCUMENTS[0])].max() < 1e-5, "the first document has nobody before it"
    assert difference[len(DOCUMENTS[0]) + 1 :].max() > 1e-2, "without masking the later ones see the earlier ones"


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_mask_from_here_is_the_librarys(kind: str) -> None:
    """As on a GPU, which must not be asked how many documents a row has."""
    losses, batch = TokenLosses(tiny(kind)), batch_of(random_rows(8))
    theirs = nats(losses, batch)
    losses.masks_itself = True
    torch.testing.assert_close(nats(losses, batch), theirs, rtol=1e-5, atol=1e-6)


def test_a_model_with_windows_keeps_the_librarys_mask() -> None:
    assert model._sees_all(tiny().config)
    assert not model._sees_all(SimpleNamespace(sliding_window=128))
    assert not model._sees_all(SimpleNamespace(layer_types=["full_attention", "sliding_attention"]))


def test_losses_are_nats_of_each_label_and_zero_where_ignored() -> None:
    losses = TokenLosses(tiny()).eval()
    batch = packed(masking=True)
    with torch.no_grad():
        found = nats(losses, batch)[0]
        logits = losses.model(torch.tensor([[*DOCUMENTS[0], EOS]])[:, :-1]).logits[0].double()
    first = [*DOCUMENTS[0], EOS][1:]
    expected = -torch.log_softmax(logits, -1)[range(len(first)), first]
    assert torch.allclose(found[: len(first)].double(), expected, atol=1e-5)
    assert (found[torch.from_numpy(batch.labels[0] == -100)] == 0).all()


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_base_stored_in_half_is_loaded_as_full_masters(tmp_path: Path) -> None:
    stored = tiny().to(torch.bfloat16)
    stored.save_pretrained(tmp_path)
    loaded = model.load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded.config._attn_implementation == "sdpa"
    for name, tensor in stored.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.float())


def test_a_base_that_cannot_be_loaded_names_its_folder_and_what_to_do(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    with pytest.raises(DataError, match=r"base: cannot load the base model: .*unheard_of.*; expected a Hugging Face"):
        model.load_model(tmp_path / "base")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "base").mkdir()
    with pytest.raises(DataError, match="cannot load the base model"):
        model.load_model(tmp_path / "base")


def test_scratch_weights_follow_the_seed_and_take_the_tokenizers_ids() -> None:
    one, same, other = tiny(seed=3), tiny(seed=3), tiny(seed=4)
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    assert (one.config.vocab_size, one.config.eos_token_id, one.config.pad_token_id) == (VOCABULARY, EOS, None)


@pytest.mark.parametrize("config", [{"model_type": "unheard_of"}, {}, {"model_type": "t5"}])
def test_a_scratch_config_that_no_model_has_is_the_manifests_fault(config: dict[str, object]) -> None:
    with pytest.raises(ManifestError) as caught:
        model.scratch_model(config, VOCABULARY, EOS, seed=0)
    (problem,) = caught.value.problems
    assert problem.field == "spec.baseModel.scratch.config"
    assert "set model_type" in problem.fix


def test_an_id_outside_the_embedding_is_refused() -> None:
    model.check_vocabulary(tiny(), VOCABULARY - 1, "corpora")
    with pytest.raises(DataError, match=rf"corpora: token id {VOCABULARY} is outside .* {VOCABULARY} rows"):
        model.check_vocabulary(tiny(), VOCABULARY, "corpora")


# --- what is trained, and how ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_only_matrices_decay(kind: str) -> None:
    built = tiny(kind)
    optimizer = model.build_optimizer(built, SETTINGS)
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays.keys() == set(names.values()), "every weight is trained once"
    for name, decay in decays.items():
        bare = name.endswith(".bias") or "norm" in name or ".ln_" in name
        assert decay == (0.0 if bare else 0.1), name


def test_settings_are_the_snapshots_whatever_the_optimizer_held() -> None:
    optimizer = model.build_optimizer(tiny(), SETTINGS)
    for group in optimizer.param_groups:
        group.update(betas=(0.1, 0.2), eps=1.0, weight_decay=0.7)
    model.apply_settings(optimizer, SETTINGS)
    assert [(g["betas"], g["eps"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ((0.9, 0.95), 1e-8, 0.1),
        ((0.9, 0.95), 1e-8, 0.0),
    ]


def test_frozen_weights_get_no_gradient_and_no_place_in_the_optimizer() -> None:
    built = tiny()
    model.freeze(built, ["*embed_tokens*", "model.layers.0.*"])
    frozen = {name for name, parameter in built.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in built.named_parameters() if "embed_tokens" in n or n.startswith("model.layers.0.")}
    nats(TokenLosses(built), batch_of(random_rows(2))).sum().backward()
    assert all((parameter.grad is None) == (name in frozen) for name, parameter in built.named_parameters())
    optimizer = model.build_optimizer(built, SETTINGS)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(built.parameters())) - len(frozen)


def test_a_pattern_that_freezes_nothing_is_a_mistake() -> None:
    with pytest.raises(ManifestError) as caught:
        model.freeze(tiny(), ["*embed_tokens*", "transformer.h.0.*"])
    (problem,) = caught.value.problems
    assert (problem.field, problem.found) == ("spec.training.freeze[1]", "transformer.h.0.*")
    assert "model.embed_tokens.weight" in problem.expected


def gradients(how: str, kind: str) -> dict[str, torch.Tensor]:
    built = tiny(kind)
    model.checkpoint_activations(built, how)
    losses = TokenLosses(built).train()
    nats(losses, batch_of(random_rows(3))).sum().backward()
    return {
        name.replace("_checkpoint_wrapped_module.", ""): parameter.grad
        for name, parameter in built.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["Full", "Selective"])
def test_recomputed_activations_give_the_same_gradients(how: str, kind: str) -> None:
    plain, recomputed = gradients("None", kind), gradients(how, kind)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, recomputed[name], atol=1e-6), name


def saved_bytes(how: str) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    built = tiny(num_hidden_layers=6)
    model.checkpoint_activations(built, how)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nats(TokenLosses(built), batch_of(random_rows(8))).sum()
    return sum(kept.values())


def test_full_recomputation_keeps_less() -> None:
    assert saved_bytes("Full") < 0.5 * saved_bytes("None")


def test_the_blocks_are_the_transformers_layers() -> None:
    assert all(len(model.blocks_of(tiny(kind))) == 2 for kind in CONFIGS)
    names = {type(block).__name__ for kind in CONFIGS for block in model.blocks_of(tiny(kind))}
    assert names == {"LlamaDecoderLayer", "Qwen2DecoderLayer", "GPTNeoXLayer", "GPT2Block"}


# --- choices --------------------------------------------------------------------------------------------------------


def test_precision_is_what_was_asked_for() -> None:
    cpu = torch.device("cpu")
    assert model.precision_for("FP32", cpu) == "FP32"
    assert model.precision_for("BF16", cpu) == "BF16"
    assert model.precision_for(None, cpu) in ("BF16", "FP32")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++"))), reason="compiling for a CPU needs a C++ compiler")
def test_compiled_blocks_give_the_same_losses_and_evaluation_compiles_nothing() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    eager, compiled = TokenLosses(tiny()), TokenLosses(tiny())
    # As a run on a CPU trains; evaluation takes SDPA for itself.
    compiled.model.set_attn_implementation("eager")
    compiled.compile_blocks()
    batch = batch_of(random_rows(4))
    for losses in (eager, compiled):
        nats(losses, batch).sum().backward()
    assert torch.allclose(nats(eager, batch), nats(compiled, batch), atol=1e-5)
    for mine, theirs in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 2, "the blocks and the loss were compiled"
    documents = EvaluationDocuments("set", [np.arange(1, length) for length in (3, 9, 40)], [1, 1, 1], ["a", "b", "c"])
    options = {"bos": None, "eos": EOS, "length": LENGTH, "batch_tokens": 64, "precision": "FP32"}
    scores = evaluation.score(compiled, documents, **options)
    np.testing.assert_allclose(scores.nats, evaluation.score(eager, documents, **options).nats, rtol=1e-5)
    assert compiled.model.config._attn_implementation == "eager", "training goes on as it was set"
    nats(compiled, batch).sum().backward()
    assert counters["stats"]["unique_graphs"] == graphs, "neither the look nor the step after it compiled anything"


def test_a_base_with_missing_weights_is_refused_and_names_the_first(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "down_proj" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"1 weights of the architecture .* are not in the files, the first is {gone}"):
        model.load_model(tmp_path)


def test_a_config_of_the_wrong_type_names_the_field_of_the_manifest() -> None:
    with pytest.raises(ManifestError, match=r"spec\.baseModel\.scratch\.config: found .*wide"):
        model.scratch_model({"model_type": "llama", "hidden_size": "wide"}, 50, 0, seed=1)
