"""Controllers through the real command, on a model that really forgets: decisions in the phase log, exact resumes."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rewarm_world import World, functions, paragraphs, read_until, write_lines

STEPS = 60
MANY_DOCUMENTS = {"heldOut": {"maximumTokens": 8000, "minimumDocuments": 48}, "every": "5%", "lookTokens": 20000}


@pytest.fixture(scope="session")
def base(world: World) -> Path:
    """A model that knows the general text."""
    manifest = world.manifest(
        "forgetful-base",
        corpus__sources=[{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
        replay=None,
        schedule={"peakLearningRate": 4e-3, "warmup": "10%"},
        budget={"tokens": 25600},
        evaluation=MANY_DOCUMENTS,
    )
    done = world.run(manifest, "forgetful-base")
    assert done.code == 0, done.err
    return world.root / "forgetful-base"


def on_base(world: World, name: str, **changes: Any) -> Path:
    return world.manifest(
        name,
        **{
            "baseModel": {"run": {"path": "forgetful-base"}},
            "schedule": {"peakLearningRate": 4e-3, "warmup": "5%"},
            "budget": {"tokens": STEPS * 256},
            "evaluation": MANY_DOCUMENTS,
            **changes,
        },
    )


def steps(world: World, workdir: str) -> dict[int, dict[str, Any]]:
    """Every update; of one that was recomputed, the last."""
    return {line["step"]: line for line in world.log(workdir) if "event" not in line}


def losses(world: World, workdir: str) -> dict[int, tuple[float, dict[str, int]]]:
    return {step: (line["loss"], line["rows"]) for step, line in steps(world, workdir).items()}


def final_weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors").read_bytes()


ADAPTIVE = {
    "ratio": 0.1,
    "sources": [{"name": "general", "uri": "data/general.jsonl", "license": "PSF-2.0"}],
    "adaptive": {"forgettingBudget": 0.02, "minimum": "5%", "maximum": "50%"},
    "maxRepeats": 100,
}


HOT = {"kind": "Constant", "peakLearningRate": 1.2e-2, "warmup": "5%"}
"""A learning rate at which the base really forgets."""


@pytest.fixture(scope="session")
def steered(world: World, base: Path) -> dict[str, Any]:
    """A run that first forgets far beyond its budget and then needs less replay, undisturbed."""
    done = world.run(on_base(world, "steered", replay=ADAPTIVE, schedule=HOT), "steered")
    assert done.code == 0, done.err
    return world.report("steered")


def test_replay_rises_while_the_budget_is_exceeded_and_falls_when_it_is_not_needed(steered: dict[str, Any]) -> None:
    phases = steered["phases"]
    ratios = [phase["ratio"] for phase in phases]
    assert ratios[0] == 0.1
    assert ratios[1] == 0.2, "forgetting was more than twice its aim"
    assert max(ratios) >= 0.4
    assert ratios[-1] < max(ratios)
    assert all(0.05 <= ratio <= 0.5 for ratio in ratios)
    assert {phase["reason"] for phase in phases[1:]} == {"forgettingBudget"}
    assert phases[1]["first_step"] > STEPS // 10, "not in the stability gap"
    moves = [decision for decision in steered["decisions"] if decision["what"] != "ReplayHeld"]
    assert {move["what"] for move in moves} == {"ReplayRaised", "ReplayLowered"}
    assert [(move["from"], move["to"], move["step"]) for move in moves] == [
        (old["ratio"], new["ratio"], new["first_step"]) for old, new in pairwise(phases)
    ]
    assert "beyond the budget 0.02 and not coming back" in moves[0]["why"]
    history = {look["tokens"] // 256: look["delta"] for look in steered["sets"]["general"]["history"][1:]}
    assert history[moves[0]["step"]]["low"] > 0.02
    assert steered["sets"]["general"]["delta"]["mean"] < 0.02, "and in the end the budget was kept"


def test_the_rows_of_a_moving_ratio_add_up(steered: dict[str, Any]) -> None:
    borders = [phase["first_step"] for phase in steered["phases"]] + [STEPS]
    wanted = sum(
        (end - start) * 8 * phase["ratio"]
        for phase, (start, end) in zip(steered["phases"], pairwise(borders), strict=True)
    )
    assert abs(steered["tokens"]["by_source"]["general"] / 32 - wanted) <= len(borders)
    assert steered["replay"]["requested"] == 0.1
    assert steered["replay"]["realized"] == steered["tokens"]["by_source"]["general"] / (STEPS * 256)


def test_a_run_that_forgets_nothing_needs_less_replay(world: World, base: Path) -> None:
    """A model from scratch has nothing to forget: its loss on the old text only falls."""
    replay = {**ADAPTIVE, "ratio": 0.4}
    assert world.run(world.manifest("calm", replay=replay, evaluation=MANY_DOCUMENTS), "calm").code == 0
    ratios = [phase["ratio"] for phase in world.report("calm")["phases"]]
    assert ratios[:3] == [0.4, 0.2, 0.1]
    assert min(ratios) >= 0.05


def test_killed_after_a_decision_and_resumed_bit_for_bit(world: World, steered: dict[str, Any]) -> None:
    manifest = on_base(world, "steered-killed", replay=ADAPTIVE, schedule=HOT)
    for moment in ("ReplayRaised", "step 33/"):
        process = world.start("run", manifest, "--workdir", world.root / "steered-killed")
        read_until(process, lambda line, moment=moment: moment in line)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert world.run(manifest, "steered-killed").code == 0
    report = world.report("steered-killed")
    assert report["phases"] == steered["phases"]
    assert report["decisions"] == steered["decisions"]
    assert losses(world, "steered-killed") == losses(world, "steered")
    assert final_weights(world.root / "steered-killed") == final_weights(world.root / "steered")
    assert report["sets"] == steered["sets"]


def test_two_processes_come_to_the_same_decisions(world: World, steered: dict[str, Any]) -> None:
    manifest = on_base(world, "steered-two", replay=ADAPTIVE, schedule=HOT)
    done = world.run(manifest, "steered-two", "--processes", "2")
    assert done.code == 0, done.err
    assert [(phase["first_step"], phase["ratio"]) for phase in world.report("steered-two")["phases"]] == [
        (phase["first_step"], phase["ratio"]) for phase in steered["phases"]
    ]


def halves(world: World) -> list[dict[str, str]]:
    """The code corpus as two sources."""
    texts = functions()[:300]
    for name, part in (("calls", texts[::2]), ("classes", texts[1::2])):
        write_lines(world.root / "data" / f"{name}.jsonl", part)
    return [{"name": name, "uri": f"data/{name}.jsonl", "license": "PSF-2.0"} for name in ("calls", "classes")]


GRAPH = {"every": "20%", "skillGraph": {"rate": 0.5, "edges": [{"source": "calls", "helps": "classes"}]}}


@pytest.fixture(scope="session")
def weighed(world: World, base: Path) -> dict[str, Any]:
    """A run under a skill graph, undisturbed, whose rows weigh by their loss too."""
    manifest = on_base(
        world,
        "weighed",
        corpus__sources=halves(world),
        mixture=GRAPH,
        training__sampleWeights={"strategy": "LinUpper", "temperature": 0.4, "uniform": "25%"},
    )
    done = world.run(manifest, "weighed")
    assert done.code == 0, done.err
    return world.report("weighed")


def test_a_skill_graph_moves_the_weights_at_its_marks(world: World, weighed: dict[str, Any]) -> None:
    phases = weighed["phases"]
    assert [phase["first_step"] for phase in phases] == [0, 12, 24, 36, 48]
    assert [phase["reason"] for phase in phases] == ["start"] + ["mixture"] * 4
    assert {phase["ratio"] for phase in phases} == {0.25}
    assert phases[0]["weights"]["calls"] == pytest.approx(0.562177, abs=1e-6)
    assert all(sum(phase["weights"].values()) == pytest.approx(1, abs=1e-5) for phase in phases)
    looks = {line["step"] for line in world.log("weighed") if line.get("event") == "evaluation"}
    assert {12, 24, 36, 48} <= looks
    rows = {name: tokens / 32 for name, tokens in weighed["tokens"]["by_source"].items()}
    wanted = sum(12 * 6 * phase["weights"]["calls"] for phase in phases)
    assert rows["calls"] == pytest.approx(wanted, abs=len(phases))
    assert rows["general"] == STEPS * 2
    told = [line for line in world.log("weighed") if line.get("event") == "decision"]
    assert [line["what"] for line in told] == ["WeightsMoved"] * 5


def test_weights_of_sources_and_rows_survive_a_kill_bit_for_bit(world: World, weighed: dict[str, Any]) -> None:
    document = (world.root / "weighed.yaml").read_text()
    manifest = world.root / "weighed-killed.yaml"
    manifest.write_text(document)
    process = world.start("run", manifest, "--workdir", world.root / "weighed-killed")
    read_until(process, lambda line: "step 28/" in line)
    process.kill()
    process.wait()
    assert world.run(manifest, "weighed-killed").code == 0
    assert world.report("weighed-killed")["phases"] == weighed["phases"]
    assert losses(world, "weighed-killed") == losses(world, "weighed")
    assert final_weights(world.root / "weighed-killed") == final_weights(world.root / "weighed")


def test_row_weights_are_those_of_the_whole_batch_on_two_processes(world: World, weighed: dict[str, Any]) -> None:
    manifest = world.root / "weighed.yaml"
    done = world.run(manifest, "weighed-two", "--processes", "2")
    assert done.code == 0, done.err
    one, two = losses(world, "weighed"), losses(world, "weighed-two")
    # Normalised on each process alone, the weights and so the losses would differ in the second digit.
    assert all(abs(one[step][0] - two[step][0]) < 2e-3 for step in one)
    assert [one[step][1] for step in one] == [two[step][1] for step in two]


def both_controllers(world: World, name: str) -> Path:
    """A manifest whose weights follow what was forgotten while its ratio follows a budget."""
    texts = paragraphs()[:400]
    for part, documents in (("past-a", texts[::2]), ("past-b", texts[1::2])):
        write_lines(world.root / "data" / f"{part}.jsonl", documents)
    olds = [{"name": part, "uri": f"data/{part}.jsonl", "license": "PSF-2.0"} for part in ("past-a", "past-b")]
    return on_base(
        world,
        name,
        corpus__sources=halves(world),
        mixture={"every": "20%", "domainDiscrepancy": {"smoothing": 0.5}},
        replay={**ADAPTIVE, "sources": olds},
        schedule=HOT,
        evaluation={
            "heldOut": {"maximumTokens": 12000, "minimumDocuments": 40},
            "every": "5%",
            "lookTokens": 40000,
        },
    )


def test_domain_discrepancy_with_a_forgetting_budget_killed_and_undisturbed(world: World, base: Path) -> None:
    done = world.run(both_controllers(world, "both"), "both")
    assert done.code == 0, done.err
    report = world.report("both")
    reasons = {phase["reason"] for phase in report["phases"]}
    assert any("forgettingBudget" in reason for reason in reasons)
    assert any("mixture" in reason for reason in reasons)
    last = report["phases"][-1]
    for pair in (("calls", "classes"), ("past-a", "past-b")):
        assert sum(last["weights"][name] for name in pair) == pytest.approx(1, abs=1e-5)
        assert min(last["weights"][name] for name in pair) >= 0.25, "the floor of smoothing"
    manifest = both_controllers(world, "both-killed")
    process = world.start("run", manifest, "--workdir", world.root / "both-killed")
    read_until(process, lambda line: "step 28/" in line)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert world.run(manifest, "both-killed").code == 0
    assert world.report("both-killed")["phases"] == report["phases"]
    assert losses(world, "both-killed") == losses(world, "both")
    assert final_weights(world.root / "both-killed") == final_weights(world.root / "both")


def checkpoint_of(world: World, workdir: str) -> str:
    return str(max((world.root / workdir / "checkpoints").glob("step-*")).relative_to(world.root))


def test_a_teacher_sets_the_first_weights_and_one_of_another_tokenizer_is_refused(world: World, base: Path) -> None:
    def manifest(name: str, teacher: str) -> Path:
        return on_base(
            world,
            name,
            corpus__sources=halves(world),
            budget={"tokens": 10 * 256},
            mixture={"every": "50%", "domainDiscrepancy": {"teacher": {"file": {"path": teacher}}}},
        )

    done = world.run(manifest("taught", checkpoint_of(world, "forgetful-base")), "taught")
    assert done.code == 0, done.err
    opening = world.report("taught")["phases"][0]
    assert opening["weights"] == {"calls": 0.5, "classes": 0.5}, "the base is as good as itself"
    assert json.loads((world.root / "taught" / "pins.json").read_text())["teacher"]["kind"] == "file"
    stranger = world.manifest("stranger", replay=None, budget={"tokens": 256})
    assert world.run(stranger, "stranger").code == 0
    done = world.run(manifest("mistaught", checkpoint_of(world, "stranger")), "mistaught")
    assert done.code == 65
    assert "spec.mixture.domainDiscrepancy.teacher" in done.err
    assert "perplexities of two tokenizers cannot be compared" in done.err


def test_too_small_a_subset_overfits_and_the_report_says_so(world: World, base: Path) -> None:
    scored = [json.dumps({"text": text, "quality": len(text)}) + "\n" for text in functions()[:300]]
    (world.root / "data" / "scored.jsonl").write_text("".join(scored))

    def run(name: str, share: str) -> dict[str, Any]:
        source = {"name": "code", "uri": "data/scored.jsonl", "license": "PSF-2.0", "scoreField": "quality"}
        manifest = on_base(
            world,
            name,
            corpus__sources=[{**source, "subset": {"share": share, "by": "LowestScore"}}],
            replay=None,
            budget={"tokens": 160 * 256},
            schedule={"kind": "Constant", "peakLearningRate": 8e-3, "warmup": "5%"},
        )
        done = world.run(manifest, name)
        assert done.code == 0, done.err
        return world.report(name)

    small, large = run("small", "1%"), run("large", "100%")
    assert small["tokens"]["epochs"]["code"] > 10
    (said,) = [warning for warning in small["warnings"] if "overfits" in warning]
    assert "its held-out loss rose by" in said
    assert not [warning for warning in large["warnings"] if "overfits" in warning]
