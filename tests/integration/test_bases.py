"""Models made elsewhere are continued as they are, exported in their own type, and judged on what was exported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World

MAKER = Path(__file__).parents[1] / "support" / "made_elsewhere.py"
TYPES = {"llama": "BF16", "qwen2": "F32", "neox": "F32", "gpt2": "F16"}


@pytest.fixture(scope="session")
def elsewhere(world: World) -> Path:
    """Folders of models that nothing of ours has touched."""
    folder = world.root / "elsewhere"
    command = [sys.executable, str(MAKER), str(world.root / "data" / "general.jsonl"), str(folder)]
    environment = {name: value for name, value in world.environment.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, env=environment, timeout=120)
    return folder


def continued(world: World, name: str, **changes: Any) -> dict[str, Any]:
    manifest = world.manifest(
        f"on-{name}",
        **{
            "baseModel": {"file": {"path": f"elsewhere/{name}"}},
            "budget": {"tokens": 5120},
            "checkpoints": {"every": "50%"},
            "evaluation__every": "50%",
            **changes,
        },
    )
    done = world.run(manifest, f"on-{name}")
    assert done.code == 0, done.err
    return world.report(f"on-{name}")


def nats(model: Any, ids: list[int], length: int = 32) -> tuple[float, int]:
    """Summed nats of one document by itself, in windows of `length` labels, done slowly."""
    import torch

    total = 0.0
    with torch.no_grad():
        for begin in range(0, len(ids) - 1, length):
            window = torch.tensor([ids[begin : begin + length + 1]])
            logits = model(window[:, :-1]).logits[0].double()
            total -= float(torch.log_softmax(logits, -1).gather(1, window[0, 1:, None]).sum())
    return total, len(ids) - 1


def check_export(world: World, name: str, report: dict[str, Any], elsewhere: Path) -> None:
    """The export loads by transformers alone, in the base's type, and has the loss that the verdict was given on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rewarm_trainer.corpus.sets import open_set
    from rewarm_trainer.export import export

    out = world.root / f"export-{name}"
    made = export(world.root / f"on-{name}", None, out)
    assert made["type"] == TYPES[name]
    tokenizer, original = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(elsewhere / name)
    assert tokenizer("def f(x): return x").input_ids == original("def f(x): return x").input_ids
    own = AutoModelForCausalLM.from_pretrained(out)
    base = AutoModelForCausalLM.from_pretrained(elsewhere / name)
    assert type(own) is type(base)
    assert own.dtype == base.dtype == {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[made["type"]]
    assert own.config.to_diff_dict() == base.config.to_diff_dict()
    scorers = {"baseline": base.float().eval(), "final": own.float().eval()}
    documents = open_set((world.root / f"on-{name}" / "corpora" / "code.held-out").resolve())
    bos = [tokenizer.bos_token_id] if name == "qwen2" else []
    for when, model in scorers.items():
        scores = [nats(model, [*bos, *ids.tolist(), tokenizer.eos_token_id]) for ids in documents.ids]
        loss = sum(score for score, _ in scores) / sum(labels for _, labels in scores)
        assert report["sets"]["code"][when]["loss"] == pytest.approx(loss, abs=2e-5)
        assert report["sets"]["code"]["tokens"] == sum(labels for _, labels in scores)


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox", "gpt2"])
def test_a_model_made_elsewhere_is_continued_exported_and_judged(world: World, elsewhere: Path, name: str) -> None:
    report = continued(world, name)
    assert report["outcome"] == "Succeeded"
    code = report["sets"]["code"]
    assert code["final"]["loss"] < code["baseline"]["loss"] - 0.1, "it learned"
    assert code["verdict"] == "Win"
    delta = code["final"]["loss"] - code["baseline"]["loss"]
    assert code["delta"]["mean"] == pytest.approx(delta, abs=1e-5)
    check_export(world, name, report, elsewhere)
    pins = json.loads((world.root / f"on-{name}" / "pins.json").read_text())
    assert (pins["eos"], pins["bos"]) == (0, 1 if name == "qwen2" else None)
    checkpoint = Path(report["checkpoint"]["uri"])
    assert checkpoint.name == "step-00000020"
    from safetensors.torch import load_file

    weights = load_file(checkpoint / "model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}, "masters"
    assert bool({"lm_head.weight", "embed_out.weight"} & weights.keys()) == (name in ("llama", "neox")), (
        "tied ones once"
    )


def test_keep_needs_an_optimizer_state(world: World, elsewhere: Path) -> None:
    manifest = world.manifest(
        "keep-nothing", baseModel={"file": {"path": "elsewhere/llama"}}, schedule__optimizerState="Keep"
    )
    done = world.run(manifest, "keep-nothing")
    assert done.code == 64, done.err
    assert "spec.schedule.optimizerState: found Keep with a base model that is no run" in done.err
