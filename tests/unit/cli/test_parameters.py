"""Parameters counted without a deep learning library must be those that the library makes."""

from __future__ import annotations

import pytest

from rewarm_api.snapshot import BaseModelSource
from rewarm_cli.parameters import configured, count_parameters, stored

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "family", [{"model_type": "llama"}, {"model_type": "llama", "num_key_value_heads": 2}, {"model_type": "gpt_neox"}]
)
def test_configured_is_what_transformers_makes(family, tied):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**SIZES, **family, "tie_word_embeddings": tied}
    given = dict(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    assert configured(config) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {**SIZES, "model_type": "mamba"}])
def test_what_is_not_known_is_none(config):
    assert configured(config) is None


def test_stored_reads_headers_only(tmp_path):
    import numpy
    from safetensors.numpy import save_file

    save_file({"a": numpy.zeros((3, 5), numpy.float32), "b": numpy.zeros(7, numpy.float32)}, tmp_path / "m.safetensors")
    base = BaseModelSource(kind="file", options={"path": tmp_path.name})
    assert count_parameters(base, tmp_path.parent) == 22


def test_a_broken_or_missing_folder_is_none(tmp_path):
    assert stored(tmp_path / "none") is None
    (tmp_path / "m.safetensors").write_bytes(b"short")
    assert stored(tmp_path) is None


def test_scratch_takes_its_vocabulary_from_the_tokenizer(tmp_path):
    config = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    options = {"config": {**config, "model_type": "llama"}, "tokenizer": {"vocabularySize": 300}}
    found = count_parameters(BaseModelSource(kind="scratch", options=options), tmp_path)
    assert found == configured({**SIZES, "model_type": "llama"})
