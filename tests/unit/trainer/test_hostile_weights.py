"""A model folder is data: nothing in it is ever run, whatever its configuration asks for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tiny_models import CONFIGS

from rewarm_api.errors import DataError, ManifestError
from rewarm_trainer.checkpoint import MANIFEST, MARKER, Checkpoints, folder_name
from rewarm_trainer.corpus.tokenizer import TokenizerHandle, train_tokenizer
from rewarm_trainer.model import load_model, scratch_model
from rewarm_trainer.storage import LocalStorage

PLANT = "import pathlib; pathlib.Path({!r}).write_text('it ran')\n"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there when planted code was run."""
    return tmp_path / "ran"


def plant(folder: Path, ran: Path, **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py"):
        (folder / name).write_text(PLANT.format(str(ran)))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_beside_the_weights_is_not_run(tmp_path: Path, ran: Path) -> None:
    classes = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    folder = plant(tmp_path / "model", ran, model_type="unheard_of", auto_map=classes)
    with pytest.raises(DataError, match=r"cannot load the base model: .*architecture that transformers knows"):
        load_model(folder)
    assert not ran.exists()


@pytest.mark.parametrize("reference", ["tokenization_x.X", "someone/else--tokenization_x.X"])
def test_code_of_a_tokenizer_is_neither_run_nor_asked_about(
    tmp_path: Path, ran: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask at a terminal, and take `y` for an answer."""
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it asked whether to run the code"))
    train_tokenizer(["some text to learn from"] * 5, 300, tmp_path / "tokenizer")
    folder = plant(tmp_path / "tokenizer", ran, model_type="unheard_of")
    path = folder / "tokenizer_config.json"
    asked = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": [None, reference]}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **asked}))
    with pytest.raises(DataError, match="the tokenizer cannot be loaded"):
        TokenizerHandle.load(folder)
    assert not ran.exists()


def test_code_that_a_scratch_configuration_names_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it asked whether to run the code"))
    auto_map = {"AutoModelForCausalLM": "someone/else--modeling_x.X"}
    try:
        model = scratch_model({**CONFIGS["llama"], "auto_map": auto_map}, 50, 0, 1)
    except ManifestError:
        return
    assert type(model).__module__.startswith("transformers.models.llama")


@pytest.mark.parametrize("name", ["../../planted", "/planted", "a/../../planted", ""])
def test_a_checkpoint_names_only_its_own_files(tmp_path: Path, name: str) -> None:
    """Its manifest comes from a bucket, and is what decides where its files are put."""
    store = LocalStorage(tmp_path / "checkpoints")
    text = json.dumps({"files": {name: {"size": 1, "sha256": "0"}}}).encode()
    store.put(f"{folder_name(4)}/{MANIFEST}", text)
    store.put(f"{folder_name(4)}/{MARKER}", json.dumps({"manifest": hashlib.sha256(text).hexdigest()}).encode())
    with pytest.raises(DataError, match=f"names {name!r}, expected files of the checkpoint itself"):
        Checkpoints(store, tmp_path / "scratch").verify(4)
