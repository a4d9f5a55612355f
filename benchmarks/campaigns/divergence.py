"""Campaign `divergence`: rows and rates that destroy a model, and a source that is broken.

The poison is a token whose embedding is not a number: each row that holds it has a loss that is none. Where it lies is
known, so what the run says can be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from rewarm_world import World, functions, write_lines

from campaigns.tally import Tally
from campaigns.world import SEQUENCE, broken, end_of, events_of, undisturbed
from rewarm_trainer.checkpoint import folder_name

SNOWMAN = chr(0x2603)
LAST = 40


def poisoned_base(world: World, source: Path) -> int:
    """`poisoned/`: the model of a finished run with one more token, whose embedding is not a number. Its id."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    target = world.root / "poisoned"
    ours = shutil.ignore_patterns("optimizer.*", "state.json", "COMMITTED", "manifest.json")
    shutil.copytree(source, target, ignore=ours)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    # A token that no text of this world holds but the poisoned row.
    token = tokenizer.encode(SNOWMAN).ids[-1]
    weights = load_file(target / "model.safetensors")
    name = next(name for name in weights if "embed" in name)
    config = json.loads((target / "config.json").read_text())
    weights["lm_head.weight"] = weights[name].clone()
    weights[name][token] = torch.nan
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return token


def manifest_of(world: World, name: str, **changes: Any) -> Path:
    return world.manifest(
        name,
        baseModel={"file": {"path": "poisoned"}},
        corpus__sources=[{"name": "code", "uri": f"data/{name}.jsonl"}],
        evaluation__sets=None,
        replay__maxRepeats=50,
        **changes,
    )


def named_rows(said: str) -> set[tuple[str, int]]:
    return {(source, int(row)) for source, row in re.findall(r"(\w+) row (\d+)", said)}


def holding(world: World, folder: Path, token: int) -> set[tuple[str, int]]:
    """Rows of the run's own source that hold the poison among their inputs."""
    from rewarm_api.pins import Pins
    from rewarm_trainer.corpus.source import open_source
    from rewarm_trainer.corpus.tokenise import folder_of

    pin = Pins.model_validate_json((folder / "pins.json").read_text()).sources["code"]
    source = open_source(folder_of(pin.prepared, "sources", world.root / "cache" / "rewarm"), "code", SEQUENCE)
    return {("code", row) for row in range(pin.rows) if token in source.row(row)[:-1].tolist()}


def poisoned_row(world: World, token: int, rollbacks: int) -> list[str]:
    """Skipped with a rollback to spend, ended with 76 without one; either way the row is named."""
    name = f"row-{rollbacks}"
    texts = functions()[:200]
    # Held out are the documents with the smallest digests: the poison must be trained on.
    candidates = (f"{number} {SNOWMAN} {texts[5]}" for number in range(50))
    bad = max(candidates, key=lambda text: hashlib.sha256(b"rewarm-heldout-v1" + text.encode()).digest())
    write_lines(world.root / "data" / f"{name}.jsonl", [*texts, bad])
    folder = world.root / name
    changes = {"training__divergence": {"rollbacks": rollbacks, "skipSteps": 2}, "budget": {"epochs": 1}}
    ended = end_of(world.fork("run", manifest_of(world, name, **changes), "--workdir", folder))
    if not (folder / "pins.json").exists():
        return [f"ended with {ended.code} before it trained: {ended.said[-300:]}"]
    there = holding(world, folder, token)
    decided = [event["why"] for event in events_of(folder, "decision")]
    spoken = named_rows(" ".join(decided) if rollbacks else ended.said)
    problems = [] if spoken and spoken <= there else [f"named {sorted(spoken)}, the poison is in {sorted(there)}"]
    wanted = 0 if rollbacks else 76
    if ended.code != wanted:
        problems.append(f"ended with {ended.code}, expected {wanted}: {ended.said[-200:]}")
    return problems + broken(folder)


def wild_rate(world: World) -> list[str]:
    """A learning rate that destroys the weights: the budget is spent, 76, and no single row is blamed."""
    manifest = world.manifest("wild", schedule={"kind": "Constant", "peakLearningRate": 1e30, "warmup": 0})
    ended = end_of(world.fork("run", manifest, "--workdir", world.root / "wild"))
    problems = [] if ended.code == 76 else [f"ended with {ended.code}, expected 76"]
    if not any(words in ended.said for words in ("the weights diverged, not a row", "no single row broke it")):
        problems.append(f"what diverged is not said: {ended.said[-200:]}")
    return problems + broken(world.root / "wild")


def broken_source(world: World) -> list[str]:
    """A source with a line that is none: 65, with file and line, and nothing is trained."""
    path = world.root / "data" / "torn.jsonl"
    write_lines(path, functions()[:100])
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:40], lines[40][: len(lines[40]) // 2], *lines[41:]]) + b"\n")
    manifest = world.manifest("torn", corpus__sources=[{"name": "code", "uri": "data/torn.jsonl"}])
    ended = end_of(world.fork("run", manifest, "--workdir", world.root / "torn"))
    problems = [] if ended.code == 65 else [f"ended with {ended.code}, expected 65"]
    if "torn.jsonl" not in ended.said or "41" not in ended.said:
        problems.append(f"file and line are not named: {ended.said[-300:]}")
    return problems


def campaign(world: World, *, count: int = 4) -> Tally:
    """The first `count` kinds of divergence."""
    tally = Tally("divergence")
    source = undisturbed(world, world.manifest("sound")).folder / "checkpoints" / folder_name(LAST)
    token = poisoned_base(world, source)
    cases = (
        ("a row that is not a number, skipped", lambda: poisoned_row(world, token, 2)),
        ("the same without a rollback to spend", lambda: poisoned_row(world, token, 0)),
        ("a learning rate far too high", lambda: wild_rate(world)),
        ("a source that is torn", lambda: broken_source(world)),
    )
    for kind, case in cases[:count]:
        tally.struck(kind, case())
    tally.notes.append("Rows that broke are named by source and number, and are those that hold the poison")
    return tally
