"""`finish` and `rewarm merge` through the real command: averages, a dial towards the base, soups, residuals, LoRA.

All runs continue one small base on general text.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, read_until

ON_STAGE = {"baseModel": {"run": {"path": "stage1"}}, "evaluation__every": "50%", "checkpoints__every": "20%"}
AVERAGE_AND_DIAL = [{"average": {"last": 3}}, {"interpolate": {"towardsBase": "Auto"}}]


@pytest.fixture(scope="session")
def stage1(world: World) -> dict[str, Any]:
    manifest = world.manifest(
        "stage1",
        corpus__sources=[{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
        replay=None,
        schedule={"peakLearningRate": 4e-3, "warmup": "10%"},
        evaluation__every="50%",
    )
    done = world.run(manifest, "stage1")
    assert done.code == 0, done.err
    return world.report("stage1")


def run(world: World, name: str, **changes: Any) -> dict[str, Any]:
    done = world.run(world.manifest(name, **{**ON_STAGE, **changes}), name)
    assert done.code == 0, done.err
    return world.report(name)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def checkpoint(world: World, name: str, step: int) -> dict[str, Any]:
    return weights(world.root / name / "checkpoints" / f"step-{step:08d}")


def mean(models: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {name: torch.stack([model[name] for model in models]).double().mean(0).float() for name in models[0]}


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    import torch

    return one.keys() == two.keys() and all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)


@pytest.fixture(scope="session")
def averaged(world: World, stage1: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that keeps one checkpoint, and three for its average."""
    return run(world, "averaged", finish=AVERAGE_AND_DIAL, checkpoints__keep=1, gates={"maxForgetting": 1.0})


def test_the_verdict_is_that_of_the_finished_model_and_the_raw_one_stands_beside_it(
    world: World, averaged: dict[str, Any]
) -> None:
    report, folder = averaged, world.root / "averaged"
    assert report["checkpoint"]["uri"].endswith("checkpoints/finished/step-00000040")
    average, dial = report["finish"]["steps"]
    assert [(line["step"], line["coefficient"]) for line in average["inputs"]] == [
        (24, pytest.approx(1 / 3)), (32, pytest.approx(1 / 3)), (40, pytest.approx(1 / 3)),
    ]  # fmt: skip
    ingredients = [checkpoint(world, "averaged", step) for step in (24, 32, 40)]
    base = weights(Path(world.report("stage1")["checkpoint"]["uri"]))
    coefficient = dial["towardsBase"]
    expected = {name: (1 - coefficient) * value + coefficient * base[name] for name, value in mean(ingredients).items()}
    assert same(weights(Path(report["checkpoint"]["uri"])), expected)
    trials = {trial["towardsBase"]: trial for trial in dial["trials"]}
    assert trials[1]["meanDelta"] == pytest.approx(0, abs=1e-6), "1 is the base itself"
    within = [trial["meanDelta"] for trial in trials.values() if trial["forgetting"] <= 1.0]
    assert trials[coefficient]["meanDelta"] == min(within)
    raw = report["finish"]["raw"]
    assert raw["checkpoint"]["step"] == 40
    for name, value in report["sets"].items():
        chosen = report["finish"]["selection"][name]
        everything = value["history"][0]
        whole = json.loads((folder / "state" / "raw" / f"{name}.json").read_text())
        assert chosen == len(whole["hashes"]) // 3
        assert value["documents"] == raw["sets"][name]["documents"] == len(whole["hashes"]) - chosen
        assert value["baseline"] == raw["sets"][name]["baseline"]
        assert everything["tokens"] == 0
        assert raw["sets"][name]["delta"]["mean"] == pytest.approx(
            raw["sets"][name]["final"]["loss"] - raw["sets"][name]["baseline"]["loss"], abs=1e-9
        )
        assert value["final"]["loss"] != raw["sets"][name]["final"]["loss"]
    assert any("finished model: SMA of the last 3 checkpoints, then" in remark for remark in report["remarks"])
    assert any("the last checkpoint itself" in remark for remark in report["remarks"])


def test_the_finished_model_is_exported_registered_and_continued(world: World, averaged: dict[str, Any]) -> None:
    import mlflow

    out = world.root / "averaged-out"
    done = world.rewarm("export", world.root / "averaged", out)
    assert done.code == 0, done.err
    finished = weights(Path(averaged["checkpoint"]["uri"]))
    assert same(weights(out), finished)
    assert world.rewarm("export", world.root / "averaged", "--checkpoint", "Latest", world.root / "raw-out").code == 0
    assert same(weights(world.root / "raw-out"), checkpoint(world, "averaged", 40))
    client = mlflow.MlflowClient(f"sqlite:///{world.root / 'averaged' / 'mlflow.db'}")
    versions = {int(each.version): each for each in client.search_model_versions("name = 'averaged'")}
    assert sorted(versions) == [1, 2]
    assert versions[1].source.endswith("checkpoints/step-00000040")
    assert versions[2].source == averaged["checkpoint"]["uri"]
    assert averaged["tracking"]["model_version"] == "2"
    steps = json.loads(versions[2].tags["rewarm.dev/finish"])
    assert [step["kind"] for step in steps] == ["average", "interpolate"]
    assert "rewarm.dev/finish" not in versions[1].tags
    report = run(world, "continued", baseModel={"run": {"path": "averaged"}}, budget={"tokens": 1024})
    pinned = json.loads((world.root / "continued" / "pins.json").read_text())["baseModel"]
    assert pinned["digest"] == f"sha256:{averaged['checkpoint']['sha256']}"
    assert report["tokens"]["trained"] == 1024


def test_killed_inside_finish_and_resumed_to_the_bit(world: World, averaged: dict[str, Any]) -> None:
    changes = {"finish": AVERAGE_AND_DIAL, "checkpoints__keep": 1, "gates": {"maxForgetting": 1.0}}
    manifest = world.manifest("killed-finish", **{**ON_STAGE, **changes})
    process = world.start("run", manifest, "--workdir", world.root / "killed-finish")
    read_until(process, lambda line: "finish: SMA of the last 3 checkpoints" in line)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (world.root / "killed-finish" / "report.json").exists()
    done = world.run(manifest, "killed-finish")
    assert done.code == 0, done.err
    report = world.report("killed-finish")
    first, second = Path(report["checkpoint"]["uri"]), Path(averaged["checkpoint"]["uri"])
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert report["sets"] == averaged["sets"]
    assert report["finish"]["raw"]["sets"] == averaged["finish"]["raw"]["sets"]
    # And when only the report is lost, the committed model is found again and nothing is merged anew.
    (world.root / "killed-finish" / "report.json").unlink()
    again = world.run(manifest, "killed-finish")
    assert again.code == 0, again.err
    assert "finish: SMA" not in again.err
    assert world.report("killed-finish")["sets"] == averaged["sets"]


def test_several_processes_finish_alike(world: World, averaged: dict[str, Any]) -> None:
    manifest = world.manifest("finish-2", **{**ON_STAGE, "finish": AVERAGE_AND_DIAL, "gates": {"maxForgetting": 1.0}})
    done = world.run(manifest, "finish-2", "--processes", "2")
    assert done.code == 0, done.err
    report = world.report("finish-2")
    chosen = [each["finish"]["steps"][1]["towardsBase"] for each in (report, averaged)]
    assert chosen[0] == pytest.approx(chosen[1], abs=0.101)
    for name, value in report["sets"].items():
        assert value["final"]["loss"] == pytest.approx(averaged["sets"][name]["final"]["loss"], abs=2e-2)


@pytest.fixture(scope="session")
def other(world: World, stage1: dict[str, Any]) -> dict[str, Any]:
    return run(world, "other", training__seed=5)


def test_a_soup_of_runs_and_a_residual_that_keeps_the_instruct_model(
    world: World, averaged: dict[str, Any], other: dict[str, Any]
) -> None:
    """The other run stands for an instruct model of the base."""
    steps = [
        {"soup": {"runs": [{"path": "other"}], "kind": "Uniform"}},
        {"instructResidual": {"instruct": {"run": {"path": "other"}}}},
    ]
    report = run(world, "soup", finish=steps)
    base, instruct = (weights(Path(world.report(name)["checkpoint"]["uri"])) for name in ("stage1", "other"))
    soup = mean([checkpoint(world, "soup", 40), instruct])
    expected = {name: soup[name] + (instruct[name] - base[name]) for name in soup}
    assert same(weights(Path(report["checkpoint"]["uri"])), expected)
    assert report["finish"]["selection"] is None, "nothing was chosen, so every document judges"
    pins = json.loads((world.root / "soup" / "pins.json").read_text())
    assert [pin["field"] for pin in pins["finish"]] == [
        "spec.finish[0].soup.runs[0]",
        "spec.finish[1].instructResidual.instruct",
    ]
    assert {pin["digest"] for pin in pins["finish"]} == {f"sha256:{other['checkpoint']['sha256']}"}


def test_what_finish_names_is_looked_at_before_training(world: World, stage1: dict[str, Any], finished: Any) -> None:
    missing = world.manifest("missing", **{**ON_STAGE, "finish": [{"soup": {"runs": [{"path": "nowhere"}]}}]})
    done = world.run(missing, "missing")
    assert done.code == 66
    assert "spec.finish[0].soup.runs[0]" in done.err
    # `whole` has a tokenizer of its own.
    strange = world.manifest("strange", **{**ON_STAGE, "finish": [{"soup": {"runs": [{"path": "whole"}]}}]})
    done = world.run(strange, "strange")
    assert done.code == 65
    assert "spec.finish[0].soup.runs[0]: its tokenizer gives other ids than that of the base model" in done.err
    assert not list((world.root / "strange" / "checkpoints").glob("step-*")), "nothing was trained"


def test_merge_makes_what_finish_makes(world: World, averaged: dict[str, Any], other: dict[str, Any]) -> None:
    folder = world.root / "averaged"
    made = world.rewarm("merge", "average", folder, "--last", "3", world.root / "merged-average", "-o", "json")
    assert made.code == 0, made.err
    assert same(weights(world.root / "merged-average"), mean([checkpoint(world, "averaged", s) for s in (24, 32, 40)]))
    assert made.json["path"] == str(world.root / "merged-average")
    assert [line["step"] for line in made.json["inputs"]] == [24, 32, 40]
    assert {value["role"] for value in made.json["sets"].values()} == {"New", "Retained"}
    assert json.loads((world.root / "merged-average" / "lineage.json").read_text()) == {
        key: value for key, value in made.json.items() if key != "path"
    }
    assert "## What it showed" in (world.root / "merged-average" / "README.md").read_text()
    compared = world.rewarm("compare", folder, world.root / "merged-average", "-o", "json")
    assert compared.code == 0, compared.err

    soup = world.rewarm("merge", "soup", folder, world.root / "other", world.root / "merged-soup", "-o", "json")
    assert soup.code == 0, soup.err
    assert (soup.json["soup"], len(soup.json["alone"])) == ("Greedy", 2)
    assert 1 <= len(soup.json["inputs"]) <= 2

    back = world.rewarm(
        "merge", "interpolate", world.root / "other", "--towards-base", "0.3", world.root / "merged-back", "--no-judge"
    )
    assert back.code == 0, back.err
    assert back.out.splitlines()[-1] == str(world.root / "merged-back")
    base, trained = (weights(Path(world.report(name)["checkpoint"]["uri"])) for name in ("stage1", "other"))
    assert same(weights(world.root / "merged-back"), {name: 0.7 * trained[name] + 0.3 * base[name] for name in base})

    residual = world.rewarm(
        "merge", "residual", folder, "--instruct", world.root / "other", world.root / "merged-residual", "--no-judge"
    )
    assert residual.code == 0, residual.err
    ours = weights(Path(averaged["checkpoint"]["uri"]))
    expected = {name: ours[name] + (trained[name] - base[name]) for name in base}
    assert same(weights(world.root / "merged-residual"), expected)


def test_merge_refuses_in_one_line(world: World, averaged: dict[str, Any], finished: Any) -> None:
    folder, out = world.root / "averaged", world.root / "refused"

    def refused(*arguments: str | Path) -> tuple[int, str]:
        done = world.rewarm("merge", *arguments)
        assert not out.exists()
        (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
        return done.code, line

    code, line = refused("average", folder, "--last", "9", out)
    assert (code, "9 checkpoints by tokens are asked for" in line) == (66, True)
    code, line = refused("soup", folder, world.root / "whole", out)
    assert (code, "its tokenizer gives other ids" in line) == (65, True)
    code, line = refused("soup", folder, world.root / "nowhere", out)
    assert (code, "no such folder" in line) == (66, True)
    assert refused("soup", folder, out)[0] == 64
    assert refused("interpolate", folder, out, "--towards-base", "2")[0] == 64
    code, line = refused("interpolate", world.root / "whole", out, "--towards-base", "0.5")
    assert (code, "a base that was trained" in line) == (64, True)
    (world.root / "occupied").mkdir(exist_ok=True)
    (world.root / "occupied" / "file").write_text("")
    code, line = refused("average", folder, "--last", "3", world.root / "occupied")
    assert (code, "which is not empty" in line) == (64, True)


def test_lora_trains_adapters_alone_and_leaves_a_whole_model(world: World, stage1: dict[str, Any]) -> None:
    import torch

    options: dict[str, Any] = {"training__adaptation": "LoRA", "training__lora": {"rank": 4, "alpha": 8}}
    report = run(world, "lora", **options)
    folder = Path(report["checkpoint"]["uri"])
    base, trained = weights(Path(stage1["checkpoint"]["uri"])), weights(folder)
    assert base.keys() == trained.keys()
    moved = {name for name in base if not torch.equal(base[name], trained[name])}
    assert moved == {name for name in base if "_proj" in name}
    for name in moved:
        assert torch.linalg.matrix_rank(trained[name] - base[name], rtol=1e-3) <= 4, name
    full = run(world, "lora-full")
    assert report["sets"]["code"]["baseline"] == full["sets"]["code"]["baseline"]
    assert report["sets"]["code"]["delta"]["mean"] < 0, "it learned"

    manifest = world.manifest("lora-killed", **{**ON_STAGE, **options})
    process = world.start("run", manifest, "--workdir", world.root / "lora-killed")
    read_until(process, lambda line: line.startswith("step 19/"))
    process.kill()
    process.wait()
    done = world.run(manifest, "lora-killed")
    assert done.code == 0, done.err
    killed = Path(world.report("lora-killed")["checkpoint"]["uri"])
    assert (killed / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert world.report("lora-killed")["sets"] == report["sets"]


def test_lora_under_two_processes_and_finished(world: World, stage1: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "training__adaptation": "LoRA",
        "training__activationCheckpointing": "Full",
        "finish": [{"average": {"last": 2, "kind": "EMA", "alpha": 0.5}}],
    }
    manifest = world.manifest("lora-2", **{**ON_STAGE, **options})
    done = world.run(manifest, "lora-2", "--processes", "2")
    assert done.code == 0, done.err
    report = world.report("lora-2")
    ingredients = [checkpoint(world, "lora-2", step) for step in (32, 40)]
    assert same(weights(Path(report["checkpoint"]["uri"])), mean(ingredients))
    assert report["sets"]["code"]["delta"]["mean"] < 0


def test_the_examples_run_one_after_the_other(world: World) -> None:
    examples = Path(__file__).parents[2] / "examples"
    done = world.run(examples / "finish.yaml", "example-finish")
    assert done.code == 0, done.err
    assert [step["kind"] for step in world.report("example-finish")["finish"]["steps"]] == ["average"]
    base = f"spec.baseModel.run.path={world.root / 'example-finish'}"
    done = world.run(examples / "lora.yaml", "example-lora", "--set", base)
    assert done.code == 0, done.err
    report = world.report("example-lora")
    assert [step["kind"] for step in report["finish"]["steps"]] == ["interpolate"]
    assert 0 <= report["finish"]["steps"][0]["towardsBase"] <= 1
