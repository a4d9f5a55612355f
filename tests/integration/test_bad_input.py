"""Bad input through the real command: one clear message, the code of the contract, nothing lost or half-written."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import CONFIG, Finished, World, functions, paragraphs, write_lines
from work_folders import contents, copied, cut_back

CODE = {"name": "code", "license": "PSF-2.0"}


def error_lines(done: Finished) -> list[str]:
    return [line for line in done.err.splitlines() if line.startswith("error: ")]


def refused(world: World, manifest: Path, code: int, *arguments: str, **environment: str) -> str:
    """The one error line of a run that must not begin; its folder holds nothing that a later start could believe."""
    folder = world.root / manifest.stem
    done = world.run(manifest, manifest.stem, *arguments, **environment)
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert not (folder / "pins.json").exists()
    assert not (folder / "checkpoints").exists()
    assert not list(world.root.rglob("*.tmp")), "half-written files lie about"
    (line,) = error_lines(done)
    return line.removeprefix("error: ")


def refused_in_preparation(world: World, manifest: Path, code: int, cause: str, **environment: str) -> str:
    """As `refused`, and the report says the same."""
    message = refused(world, manifest, code, **environment)
    report = world.report(manifest.stem)
    assert (report["outcome"], report["message"]) == (cause, message)
    assert report["tokens"]["trained"] == 0
    return message


def prepared(world: World, manifest: Path) -> Finished:
    """What a manifest says that preparation must accept: a budget in epochs makes `rewarm plan` read the text."""
    return world.rewarm("plan", manifest, "-o", "json")


EPOCHS = {"budget": {"epochs": 1}}


def corpus(uri: str, **more: Any) -> dict[str, Any]:
    return {"corpus__sources": [{**CODE, "uri": uri, **more}]}


# --- the manifest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "unknown-field",
            {"replay__ratios": 0.1},
            "spec.replay.ratios: found the unknown field ratios, expected one of ratio, ",
        ),
        ("ratio", {"replay__ratio": 1.2}, "spec.replay.ratio: found 1.2, expected 0 <= ratio < 1"),
        ("no-sources", {"replay": {"ratio": 0.2}}, "spec.replay: found ratio 0.2"),
        ("warm-up", {"schedule__warmup": "20K"}, "spec.schedule.warmup: found"),
        ("batch", {"training__globalBatchTokens": 250}, "spec.training.globalBatchTokens: found 250"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_64_and_makes_no_folder(
    world: World, name: str, changes: dict[str, Any], message: str
) -> None:
    manifest = world.manifest(name, **changes)
    line = refused(world, manifest, 64)
    assert message in line
    assert not (world.root / name).exists()


def test_all_problems_come_at_once_and_the_same_from_every_command(world: World) -> None:
    manifest = world.manifest("many-problems", replay__ratio=1.2, schedule__warmup="20K", corpus__source=[])
    answers = [
        world.rewarm("validate", manifest, "-o", "json"),
        world.rewarm("plan", manifest, "-o", "json"),
        world.run(manifest, "many-problems", "-o", "json"),
    ]
    assert [answer.code for answer in answers] == [64, 64, 64]
    problems = [answer.json["problems"] for answer in answers]
    assert problems[0] == problems[1] == problems[2]
    fields = {problem["field"] for problem in problems[0]}
    assert fields == {"spec.replay.ratio", "spec.schedule.warmup", "spec.corpus.source"}
    assert all(problem["found"] and problem["expected"] and problem["fix"] for problem in problems[0])


def test_processes_that_do_not_divide_the_batch_are_64_with_the_two_nearest(world: World) -> None:
    """8 rows of 32 tokens; refused before any corpus is read."""
    line = refused(world, world.manifest("three"), 64, "--processes", "3")
    assert line == (
        "spec.training.globalBatchTokens: found 256, expected rows in a multiple of 3 processes: a multiple of 96; "
        "use 192 or 288"
    )


def test_another_experiment_in_the_same_folder_is_64_naming_the_fields(
    world: World, finished: tuple[Path, Finished]
) -> None:
    folder = copied(finished[0], world.root / "second-experiment")
    before = contents(folder)
    changes = ["spec.training.seed=4", "spec.schedule.peakLearningRate=1e-3", "spec.replay.sources[0].badLines=2"]
    done = world.run(world.root / "whole.yaml", folder.name, *(each for pair in changes for each in ("--set", pair)))
    assert done.code == 64
    assert [line.split(", as this")[0] for line in error_lines(done)] == [
        "error: spec.replay.sources[0].badLines: found 2, expected 0",
        "error: spec.schedule.peakLearningRate: found 0.001, expected 0.002",
        "error: spec.training.seed: found 4, expected 3",
    ]
    assert "--workdir" in done.err
    assert contents(folder) == before


# --- what is not there -----------------------------------------------------------------------------------------------


def test_a_missing_manifest_is_66(world: World) -> None:
    done = world.run(world.root / "nowhere.yaml", "nowhere")
    assert done.code == 66
    (line,) = error_lines(done)
    assert "nowhere.yaml" in line
    assert not (world.root / "nowhere").exists()


@pytest.mark.parametrize("uri", ["data/absent.jsonl", "data/*.parquet"])
def test_a_missing_file_or_an_empty_glob_is_66(world: World, uri: str) -> None:
    manifest = world.manifest("absent-file" if "absent" in uri else "empty-glob", **corpus(uri))
    message = refused_in_preparation(world, manifest, 66, "MissingInput")
    assert f"{uri}: no file matches" in message or f"{uri}: no such file" in message


def test_a_missing_base_model_is_66(world: World) -> None:
    manifest = world.manifest("no-base", baseModel={"file": {"path": "bases/none"}})
    message = refused_in_preparation(world, manifest, 66, "MissingInput")
    assert f"{world.root}/bases/none: no such base model" in message


# --- data ------------------------------------------------------------------------------------------------------------


def test_an_empty_corpus_is_65(world: World) -> None:
    (world.root / "data" / "empty.jsonl").write_text("\n")
    message = refused_in_preparation(world, world.manifest("empty", **corpus("data/empty.jsonl")), 65, "BadData")
    assert "source 'code' is empty: found 0 documents" in message


def test_less_than_one_row_is_65(world: World) -> None:
    write_lines(world.root / "data" / "short.jsonl", ["def f(): pass"])
    message = refused_in_preparation(world, world.manifest("short", **corpus("data/short.jsonl")), 65, "BadData")
    assert "source 'code': found" in message
    assert "expected at least 33 for one row" in message


def test_a_broken_parquet_is_65_and_named(world: World) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = world.root / "data" / "broken.parquet"
    pq.write_table(pa.table({"text": functions()[:200]}), path, row_group_size=50)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    message = refused_in_preparation(world, world.manifest("parquet", **corpus("data/broken.parquet")), 65, "BadData")
    assert "data/broken.parquet: row " in message
    path.write_bytes(data[: len(data) // 2])
    message = refused_in_preparation(world, world.manifest("torn", **corpus("data/broken.parquet")), 65, "BadData")
    assert "data/broken.parquet" in message


BAD_LINES = {"json": b'{"text": "def f(): retu\n', "utf8": b'{"text": "caf\xe9"}\n', "field": b'{"body": "x"}\n'}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_with_file_and_line_and_refused_beyond_the_limit(world: World, kind: str) -> None:
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in functions()[:60]]
    lines[6] = lines[40] = BAD_LINES[kind]
    path = world.root / "data" / f"bad-{kind}.jsonl"
    path.write_bytes(b"".join(lines))
    message = refused_in_preparation(world, world.manifest(f"bad-{kind}", **corpus(str(path))), 65, "BadData")
    assert f"{path}, line 7: " in message
    assert "at most badLines: 0" in message
    one = world.manifest(f"one-{kind}", **corpus(str(path), badLines=1))
    assert f"{path}, line 41: " in refused_in_preparation(world, one, 65, "BadData")
    tolerated = prepared(world, world.manifest(f"two-{kind}", **corpus(str(path), badLines=2), **EPOCHS))
    assert tolerated.code == 0, tolerated.err
    assert f"{path}, line 7: " in tolerated.err
    assert f"{path}, line 41: " in tolerated.err


def test_a_changed_corpus_under_the_same_pin_is_65(world: World, finished: tuple[Path, Finished]) -> None:
    pinned = json.loads((finished[0] / "pins.json").read_text())["sources"]["code"]["digest"]
    same = prepared(world, world.manifest("same-pin", **corpus("data/code.jsonl", digest=pinned), **EPOCHS))
    assert same.code == 0, same.err
    (world.root / "changed").mkdir()
    write_lines(world.root / "changed" / "code.jsonl", functions()[:299])
    manifest = world.manifest("changed-pin", **corpus("changed/code.jsonl", digest=pinned))
    message = refused_in_preparation(world, manifest, 65, "BadData")
    assert "source 'code': its files have digest sha256:" in message
    assert f"expects {pinned}" in message


def test_an_evaluation_set_that_overlaps_the_training_text_is_65(world: World) -> None:
    write_lines(world.root / "data" / "eval.jsonl", [*paragraphs()[300:340], *functions()[:50]])
    sets = [
        {"name": "code", "role": "New"},
        {"name": "general", "role": "Retained"},
        {"name": "third", "role": "Retained", "uri": "data/eval.jsonl"},
    ]
    message = refused_in_preparation(world, world.manifest("overlap", evaluation__sets=sets), 65, "BadData")
    assert "evaluation set 'third': " in message
    assert "of its documents stand in the training text of source 'code'" in message


def test_shards_of_another_tokenizer_are_65(world: World, finished: tuple[Path, Finished]) -> None:
    shards = world.root / "shards"
    shutil.copytree(finished[0] / "corpora" / "code", shards)
    write_lines(world.root / "data" / "own-eval.jsonl", functions()[300:340])
    changes = {
        **corpus("shards/*.bin", format="Tokens"),
        "evaluation__sets": [{"name": "own", "role": "New", "uri": "data/own-eval.jsonl"}],
    }
    base = {"config": CONFIG, "tokenizer": {"file": str(finished[0] / "tokenizer")}}
    right = prepared(world, world.manifest("right-tokens", baseModel={"scratch": base}, **changes, **EPOCHS))
    assert right.code == 0, right.err
    pins = json.loads((finished[0] / "pins.json").read_text())
    base = {"config": CONFIG, "tokenizer": {"vocabularySize": 390}}
    message = refused_in_preparation(
        world, world.manifest("wrong-tokens", baseModel={"scratch": base}, **changes), 65, "BadData"
    )
    assert f"source 'code': its shards were made with tokenizer {pins['tokenizer']}, the model's is" in message


MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def base_of(world: World, finished: tuple[Path, Finished], name: str) -> Path:
    """The finished run's model as a base model of its own."""
    folder = world.root / "bases" / name
    folder.mkdir(parents=True)
    for file in MODEL:
        shutil.copyfile(finished[0] / "checkpoints" / "step-00000040" / file, folder / file)
    return folder


def test_a_tokenizer_with_ids_outside_the_embedding_is_65(world: World, finished: tuple[Path, Finished]) -> None:
    from safetensors.numpy import load_file, save_file

    folder, rows = base_of(world, finished, "small"), 350
    weights = load_file(folder / "model.safetensors")
    (embedding,) = (key for key in weights if "embed_tokens" in key)
    weights[embedding] = weights[embedding][:rows].copy()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    done = world.run(world.manifest("small-base", baseModel={"file": {"path": "bases/small"}}), "small-base")
    assert done.code == 65, done.err
    (line,) = error_lines(done)
    assert "token id 399 is outside the model's embedding of 350 rows" in line
    assert not (world.root / "small-base" / "checkpoints").exists()


def test_weights_in_pickle_files_are_65(world: World, finished: tuple[Path, Finished]) -> None:
    folder = base_of(world, finished, "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "optimizer.safetensors").write_bytes(b"not the weights")
    manifest = world.manifest("pickled", baseModel={"file": {"path": "bases/pickled"}})
    message = refused_in_preparation(world, manifest, 65, "BadData")
    assert f"{folder}: weights are in pytorch_model.bin, expected safetensors" in message
    assert "save_pretrained" in message


@pytest.mark.parametrize("harm", ["torn", "pointer"])
def test_weights_that_are_not_whole_are_65(world: World, finished: tuple[Path, Finished], harm: str) -> None:
    weights = base_of(world, finished, harm) / "model.safetensors"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 127608\n"
    weights.write_bytes(weights.read_bytes()[:-1000] if harm == "torn" else pointer)
    manifest = world.manifest(f"{harm}-base", baseModel={"file": {"path": f"bases/{harm}"}})
    message = refused_in_preparation(world, manifest, 65, "BadData")
    assert f"{weights}: {weights.stat().st_size} bytes that are no whole safetensors file" in message


# --- a resumed folder whose corpus changed ---------------------------------------------------------------------------


def test_a_changed_corpus_in_a_resumed_folder_without_its_cache_is_65_and_restored_it_goes_on(
    world: World, finished: tuple[Path, Finished], tmp_path: Path
) -> None:
    alone = World(tmp_path, {**world.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    shutil.copytree(world.root / "data", tmp_path / "data")
    shutil.copyfile(world.root / "whole.yaml", tmp_path / "whole.yaml")
    folder = cut_back(finished[0], tmp_path / "whole", 36)
    write_lines(tmp_path / "data" / "code.jsonl", [*functions()[:300], "one line more " * 20])
    before = contents(folder)
    done = alone.run(tmp_path / "whole.yaml", "whole")
    assert done.code == 65, done.err
    (line,) = error_lines(done)
    pinned = json.loads((folder / "pins.json").read_text())["sources"]["code"]["digest"]
    assert f"pins.json expects {pinned}" in line
    after = contents(folder)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == {"report.json"}
    shutil.copyfile(world.root / "data" / "code.jsonl", tmp_path / "data" / "code.jsonl")
    done = alone.run(tmp_path / "whole.yaml", "whole")
    assert done.code == 0, done.err
    final = "checkpoints/step-00000040/model.safetensors"
    assert contents(folder)[final] == contents(finished[0])[final]


# --- the disk is full before training --------------------------------------------------------------------------------


def limited(size: int) -> Callable[[], None]:
    """No file may grow beyond `size` bytes: what a full disk or a quota looks like to a program."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_full_in_preparation_is_75_and_leaves_no_half_shard(world: World, tmp_path: Path) -> None:
    manifest = world.manifest("no-space")
    cache = tmp_path / "cache"
    done = subprocess.run(
        world.command("run", manifest, "--workdir", world.root / "no-space"),
        capture_output=True,
        text=True,
        cwd=world.root,
        env={**world.environment, "XDG_CACHE_HOME": str(cache)},
        preexec_fn=limited(50_000),
        timeout=120,
    )
    assert done.returncode == 75, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "disk full while writing (File too large); free some space, then start the same command again" in line
    assert "Traceback" not in done.stderr
    assert not (world.root / "no-space" / "pins.json").exists()
    assert not [path for path in cache.rglob("*") if path.name.endswith(".tmp")]
    assert world.report("no-space")["outcome"] == "DependencyUnavailable"
