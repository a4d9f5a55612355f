"""Every finding: its arms are manifests that the product accepts, and its measurement meets its claims."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from science_folders import Law, write_run, write_study

from rewarm_api.manifest import load_yaml
from rewarm_api.resolve import resolve
from rewarm_api.study_rules import validate_study
from rewarm_api.validate import validate
from rewarm_trainer.laws import sets
from science import figures, page
from science.arms import Arm, Checkpoint, Graph
from science.claims import Verdict, verdict
from science.corpora import CLEAN, EXCHANGES, NAMES, NOISY
from science.finding import Finding, Measured, Results
from science.findings import FINDINGS
from science.findings.skills import edges_of
from science.models import SIZES
from science.recipes import REHEARSAL, Setting, base, continued
from science.results import Run, share_of_runs

TEXTS = {name: f"digest of {name}" for name in (*NAMES, CLEAN, EXCHANGES, NOISY)}
findings = pytest.mark.parametrize("finding", FINDINGS.values(), ids=FINDINGS)


@findings
def test_every_arm_is_a_valid_manifest(finding: Finding) -> None:
    for setting in (finding.setting, REHEARSAL):
        arms = [older for arm in finding.arms(setting, 1).values() for older in arm.lineage()]
        for arm in {arm.folder(TEXTS): arm for arm in arms}.values():
            check = validate_study if arm.kind == "MixtureStudy" else validate
            assert check(load_yaml(yaml.safe_dump(arm.manifest(TEXTS))), local=True).problems == (), arm.name


@findings
def test_seeds_train_bases_of_their_own_and_nothing_else_differs(finding: Finding) -> None:
    one, other = (finding.arms(finding.setting, seed) for seed in (1, 2))
    assert list(one) == list(other)
    for first, second in zip(one.values(), other.values(), strict=True):
        assert not {a.key(TEXTS) for a in first.lineage()} & {b.key(TEXTS) for b in second.lineage()}
        specs = [str(arm.manifest(TEXTS)["spec"]) for arm in (first, second)]
        for arm in first.lineage():
            specs[0] = specs[0].replace(arm.key(TEXTS), "key")
        for arm in second.lineage():
            specs[1] = specs[1].replace(arm.key(TEXTS), "key")
        assert specs[0].replace("'seed': 1", "'seed': 2").replace("-s1-", "-s2-") == specs[1]


@findings
def test_every_claim_is_a_sentence_of_a_paper(finding: Finding) -> None:
    keys = [claim.key for claim in finding.claims]
    assert len(set(keys)) == len(keys)
    assert all(claim.sentence.endswith(".") and claim.paper for claim in finding.claims)


def test_findings_share_their_runs() -> None:
    setting = Setting()
    shared = [
        {arm.folder(TEXTS) for arm in FINDINGS[name].arms(setting, 1).values()} for name in ("replay", "stability")
    ]
    assert shared[1] < shared[0]
    assert FINDINGS["rewarm"].arms(setting, 1)["peak-1"].key(TEXTS) in {
        arm.key(TEXTS) for arm in FINDINGS["replay"].arms(setting, 1).values()
    }


def test_a_key_follows_setting_text_and_base() -> None:
    setting = Setting()

    def arm(tokens: int = 300_000, seed: int = 1, ratio: float = 0.0) -> Arm:
        return continued(
            "x", Setting(base_tokens=tokens), 1, base(Setting(base_tokens=tokens), seed), "german", ratio=ratio
        )

    keys = {each.key(TEXTS) for each in (arm(), arm(400_000), arm(seed=2), arm(ratio=0.1))}
    assert len(keys) == 4
    assert arm().key({**TEXTS, "german": "another"}) != arm().key(TEXTS)
    assert arm().key({**TEXTS, "code": "another"}) != arm().key(TEXTS), "the base's vocabulary reads all texts"
    assert base(setting, 1).key(TEXTS) == base(setting, 1).key(dict(reversed(TEXTS.items())))


def test_a_graph_is_learned_from_its_finished_arms_and_belongs_to_the_key() -> None:
    setting = Setting()
    on = base(setting, 1)
    alone, pair = (continued(name, setting, 1, on, "code", retained=()) for name in ("alone", "pair"))
    graph = {"mixture": {"skillGraph": {"edges": Graph((alone, pair))}}}
    arm = continued("graph", setting, 1, on, "code", retained=(), lines=graph)
    edge = {"source": "noisy", "helps": "clean", "weight": 0.25}
    asked: list[str] = []

    def learn(folders: Sequence[str]) -> list[dict[str, object]]:
        asked.extend(folders)
        return [edge]

    manifest = arm.manifest(TEXTS, learn)
    assert manifest["spec"]["mixture"]["skillGraph"]["edges"] == [edge]
    assert asked == [alone.folder(TEXTS), pair.folder(TEXTS)]
    assert {each.folder(TEXTS) for each in arm.needs()} == {each.folder(TEXTS) for each in (on, alone, pair)}
    fewer = continued(
        "graph", setting, 1, on, "code", retained=(), lines={"mixture": {"skillGraph": {"edges": Graph((alone,))}}}
    )
    assert fewer.key(TEXTS) != arm.key(TEXTS)


def test_the_edges_of_a_run_are_read_as_its_snapshot_has_them(tmp_path: Path) -> None:
    edge = {"source": "noisy", "helps": "clean", "weight": 0.25}
    arm = FINDINGS["skills"].arms(Setting(), 1)["learned-graph"]
    checked = validate(load_yaml(yaml.safe_dump(arm.manifest(TEXTS, lambda _: [edge]))), local=True)
    assert checked.run is not None
    (tmp_path / "snapshot.json").write_text(json.dumps(resolve(checked.run, uid="x").to_json()))
    assert edges_of(Run(tmp_path)) == [edge]


def test_a_checkpoint_is_the_last_one_of_its_arm() -> None:
    setting = Setting(tokens=2_048 * 3 + 1)
    teacher = continued("teacher", setting, 1, base(setting, 1), "code", retained=())
    arm = continued("x", setting, 1, base(setting, 1), "code", lines={"baseModel": {"file": Checkpoint(teacher)}})
    assert arm.manifest(TEXTS)["spec"]["baseModel"]["file"] == (
        f"../runs/{teacher.folder(TEXTS)}/checkpoints/step-00000004"
    )


@pytest.mark.parametrize(("size", "millions"), [("0.5M", 0.5), ("2M", 2), ("6M", 6)])
def test_sizes_are_what_they_say(size: str, millions: float) -> None:
    assert SIZES[size].parameters / 1e6 == pytest.approx(millions, rel=0.1)


def test_the_parameters_are_those_of_the_real_model() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    size = SIZES["0.5M"]
    settings = {key: value for key, value in size.config.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=2048, **settings))
    assert sum(parameter.numel() for parameter in model.parameters()) == size.parameters


def law_of(arm: str, name: str) -> Law:
    """A made-up world in which replay helps: old text forgets less the more is replayed, with a gap that recovers."""
    if not arm.startswith("german-r"):
        return lambda share: 0.3 * share
    ratio = int(arm.removeprefix("german-r")) / 100
    if name != "general":
        return lambda share: -2.0 * share**0.5 + 0.1 * ratio
    depth, end = 1.5 - 1.2 * ratio, {0.0: 1.5, 0.01: 0.9, 0.05: 0.5, 0.1: 0.35, 0.25: 0.1, 0.5: 0.02}[ratio]
    return lambda share: depth * share / 0.1 if share <= 0.1 else depth + (end - depth) * (share - 0.1) / 0.9


def measured(finding: Finding, root: Path) -> Measured:
    texts = ("general", "german", "code", "python", "clean", "noisy", "exchanges")
    folders = []
    for seed in finding.setting.seeds:
        arms = {}
        for name, arm in finding.arms(finding.setting, seed).items():
            if arm.verb == "study":
                grid = arm.spec["grid"]
                budgets = grid["budgets"] if len(grid["budgets"]) > 1 else ()
                arms[name] = write_study(root / f"{name}-{seed}", ratios=grid["replayRatios"], budgets=budgets)
                continue
            laws = {each: law_of(name, each) for each in texts}
            arms[name] = write_run(root / f"{name}-{seed}", laws, zlib.crc32(f"{name}{seed}".encode()), noise=0.004)
        folders.append(arms)
    return finding.measure(Results(folders), finding.setting)


@findings
def test_a_finding_measures_all_its_claims_and_fills_its_section(
    finding: Finding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Intervals of laws have tests of their own; here a few resamples do.
    monkeypatch.setattr(sets, "SURFACE_RESAMPLES", 8)
    monkeypatch.setattr(sets, "RATIO_RESAMPLES", 8)
    found = measured(finding, tmp_path / "runs")
    assert set(found.comparisons) == {claim.key for claim in finding.claims}
    text = page.section(finding, finding.setting, found, "images/x.svg", 90.0)
    assert text.count("\n| ") > len(finding.claims)
    assert "nan" not in text
    for claim in finding.claims:
        assert claim.sentence in text
    for name in ("one.svg", "two.svg"):
        figures.save(tmp_path / name, found.panels)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_known_world_gets_the_verdicts_it_deserves(tmp_path: Path) -> None:
    stability, replay = FINDINGS["stability"], FINDINGS["replay"]
    gap = measured(stability, tmp_path / "gap")
    assert {claim.key: verdict(claim, gap.comparisons[claim.key]) for claim in stability.claims} == dict.fromkeys(
        ("visible", "recovers", "permanent", "early", "shallower"), Verdict.SEEN
    )
    mix = measured(replay, tmp_path / "mix")
    found = {claim.key: verdict(claim, mix.comparisons[claim.key]) for claim in replay.claims}
    assert found["strong-order"] is found["strong-half"] is found["strong-most"] is Verdict.SEEN
    assert found["weak-order"] is Verdict.NOT_SEEN, "in this world the weak shift knows no replay"


def test_a_finding_at_another_size_gets_a_section_after_its_own(tmp_path: Path) -> None:
    target = tmp_path / "science.md"
    own, other = "\n".join(page.marks("replay")), "\n".join(page.marks("weights"))
    target.write_text(f"{own}\nbetween\n{other}\n")
    page.save(target, "replay-2M", "two", beside="replay")
    page.save(target, "replay-2M", "two again", beside="replay")
    begin, end = page.marks("replay-2M")
    assert target.read_text() == f"{own}\n\n{begin}\ntwo again\n{end}\nbetween\n{other}\n"


def test_three_of_three_runs_are_no_certainty(tmp_path: Path) -> None:
    runs = [Run(tmp_path / str(number)) for number in range(3)]
    whole = share_of_runs(runs, lambda run: True)
    assert (whole.value, whole.high) == (1.0, 1.0)
    assert whole.low == pytest.approx(0.025 ** (1 / 3))
    assert share_of_runs(runs, lambda run: run is runs[0]).value == pytest.approx(1 / 3)
