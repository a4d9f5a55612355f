"""`spec.finish` and `training.adaptation`: what they take, what they come to, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_api.errors import ManifestError
from rewarm_api.resolve import make_plan, resolve
from rewarm_api.snapshot import Snapshot

RUN = "{run: {path: stage1}}"
ON_RUN = {"spec.baseModel": RUN}
SOUP = "{soup: {runs: [{path: b}]}}"
RESIDUAL = "{instruct: {file: {path: instruct}}, base: {huggingFace: {repo: a/b}}}"


def snapshot_of(check, changes: dict[str, Any]) -> Snapshot:
    result = check(changes)
    assert result.problems == ()
    return resolve(result.run, uid="uid")


def finish(text: str) -> dict[str, str]:
    return {**ON_RUN, "spec.finish": text}


def test_steps_resolve_in_order_with_their_defaults(check) -> None:
    steps = f"[{{average: {{}}}}, {SOUP}, {{interpolate: {{}}}}, {{instructResidual: {RESIDUAL}}}]"
    made = snapshot_of(check, {**finish(steps), "spec.budget": "{tokens: 2M}"})
    assert [(step.kind, step.options) for step in made.finish] == [
        ("average", {"last": 6, "kind": "SMA", "alpha": 0.2}),
        ("soup", {"runs": [{"path": "b", "checkpoint": "Final"}], "kind": "Greedy"}),
        ("interpolate", {"towardsBase": "Auto"}),
        (
            "instructResidual",
            {"instruct": {"file": {"path": "instruct"}}, "base": {"huggingFace": {"repo": "a/b", "revision": "main"}}},
        ),
    ]
    assert Snapshot.model_validate(made.to_json()) == made


def test_without_finish_and_lora_nothing_stands_in_the_snapshot(check) -> None:
    made = snapshot_of(check, {})
    assert "finish" not in made.to_json()
    assert "lora" not in made.to_json()["training"]
    assert snapshot_of(check, {"spec.finish": "[]"}).digest == made.digest
    assert snapshot_of(check, {"spec.training.adaptation": "Full"}).digest == made.digest


@pytest.mark.parametrize(
    ("text", "coefficient"), [("Auto", "Auto"), ("0.3", 0.3), ("30%", 0.3), ("0", 0.0), ("1", 1.0), ("12.5%", 0.125)]
)
def test_a_coefficient_in_each_of_its_forms(check, text: str, coefficient: object) -> None:
    (step,) = snapshot_of(check, finish(f"[{{interpolate: {{towardsBase: {text}}}}}]")).finish
    assert step.options == {"towardsBase": coefficient}


REFUSALS: dict[str, tuple[dict[str, str], str, str]] = {
    "two in one step": (
        finish("[{average: {}, interpolate: {}}]"), "spec.finish[0]",
        "exactly one of average | soup | interpolate | instructResidual",
    ),
    "an empty step": (finish("[{}]"), "spec.finish[0]", "exactly one of average | soup | interpolate"),
    "an average in the middle": (
        finish("[{interpolate: {}}, {average: {last: 2}}]"), "spec.finish[1].average", "average only as the first step",
    ),
    "an average of one": (finish("[{average: {last: 1}}]"), "spec.finish[0].average.last", "2 <= last <= 1000"),
    "more checkpoints than there are": (
        {**finish("[{average: {last: 6}}]"), "spec.checkpoints.every": "25%", "spec.budget": "{tokens: 2M}"},
        "spec.finish[0].average.last", "at most 4: so many checkpoints by tokens are committed on the way",
    ),
    "alpha of a plain mean": (
        finish("[{average: {last: 2, alpha: 0.2}}]"), "spec.finish[0].average.alpha",
        "alpha only with EMA and GeometricEMA",
    ),
    "alpha beyond one": (
        finish("[{average: {last: 2, kind: EMA, alpha: 1.5}}]"), "spec.finish[0].average.alpha", "0 < alpha <= 1",
    ),
    "an average that does not exist": (
        finish("[{average: {kind: Median}}]"), "spec.finish[0].average.kind", "SMA | EMA | GeometricEMA",
    ),
    "a soup of nothing": (finish("[{soup: {runs: []}}]"), "spec.finish[0].soup.runs", "a list of 1 to 16 items"),
    "a run with two names": (
        finish("[{soup: {runs: [{path: a, checkpoint: Best}, {checkpoint: Best}]}}]"), "spec.finish[0].soup.runs[1]",
        "exactly one of name | path",
    ),
    "a run by name on this machine": (
        finish("[{soup: {runs: [{name: other}]}}]"), "spec.finish[0].soup.runs[0].name",
        "path: this machine knows no runs by name",
    ),
    "beyond the base": (
        finish("[{interpolate: {towardsBase: 1.2}}]"), "spec.finish[0].interpolate.towardsBase",
        "Auto, or a coefficient from 0 (as trained) to 1 (the base)",
    ),
    "a coefficient in lower case": (
        finish("[{interpolate: {towardsBase: auto}}]"), "spec.finish[0].interpolate.towardsBase",
        "Auto, or a coefficient from 0 (as trained) to 1 (the base)",
    ),
    "towards random weights": (
        {"spec.finish": "[{interpolate: {}}]"}, "spec.finish[0].interpolate", "a base that was trained",
    ),
    "an instruct model of random weights": (
        {"spec.finish": "[{instructResidual: {instruct: {file: {path: a}}}}]"}, "spec.finish[0].instructResidual.base",
        "the base that the instruct model was made from",
    ),
    "no instruct model": (
        finish("[{instructResidual: {base: {file: {path: a}}}}]"), "spec.finish[0].instructResidual.instruct",
        "a mapping with the fields",
    ),
    "two instruct models": (
        finish("[{instructResidual: {instruct: {file: {path: a}, run: {path: b}}}}]"),
        "spec.finish[0].instructResidual.instruct", "exactly one of",
    ),
    "a volume on this machine": (
        finish("[{instructResidual: {instruct: {volume: {claim: a}}}}]"),
        "spec.finish[0].instructResidual.instruct.volume", "file: {path: ...}",
    ),
    "lora without LoRA": (
        {"spec.training.lora": "{rank: 8}"}, "spec.training.lora", "lora only with adaptation LoRA",
    ),
    "freeze beside LoRA": (
        {"spec.training.adaptation": "LoRA", "spec.training.freeze": "['*norm*']"}, "spec.training.freeze", "no freeze",
    ),
    "moments for new adapters": (
        {**ON_RUN, "spec.training.adaptation": "LoRA", "spec.schedule.optimizerState": "Keep"},
        "spec.schedule.optimizerState", "Reset: new adapters have no moments",
    ),
    "a branch by adapters": (
        {
            "spec.baseModel": "{run: {path: stage1, checkpoint: Latest, anneal: {length: 10%}}}",
            "spec.training.adaptation": "LoRA",
        },
        "spec.baseModel.run.anneal", "a branch that goes on with its trunk's optimizer",
    ),
    "rank zero": (
        {"spec.training.adaptation": "LoRA", "spec.training.lora": "{rank: 0}"}, "spec.training.lora.rank",
        "1 <= rank <= 65536",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_refusals_name_the_field_to_edit(check, name: str) -> None:
    changes, field, expected = REFUSALS[name]
    problems = [problem for problem in check(changes).problems if problem.field == field]
    assert len(problems) == 1, check(changes).problems
    assert problems[0].expected.startswith(expected) or expected in problems[0].expected


def test_a_cluster_reads_no_files_of_this_machine(check) -> None:
    steps = "[{soup: {runs: [{path: a}]}}, {instructResidual: {instruct: {file: {path: b}}}}]"
    changes = {**finish(steps), "spec.corpus.sources[0].uri": "s3://b/a.jsonl"}
    fields = {problem.field for problem in check(changes, local=False).problems}
    assert {"spec.finish[0].soup.runs[0].path", "spec.finish[1].instructResidual.instruct.file"} <= fields


def test_epochs_are_counted_before_an_average_is_believed(check) -> None:
    made = snapshot_of(check, {**finish("[{average: {last: 6}}]"), "spec.budget": "{epochs: 1}"})
    batch = made.training.global_batch_tokens
    assert make_plan(made, 100 * batch).steps == 100
    with pytest.raises(ManifestError, match=r"spec.finish\[0\].average.last: found 6, expected at most 5"):
        make_plan(made, 5 * batch)


def test_lora_has_the_defaults_of_the_contract(check) -> None:
    made = snapshot_of(check, {"spec.training.adaptation": "LoRA"})
    assert made.to_json()["training"]["lora"] == {"rank": 16, "alpha": 32.0}
    made = snapshot_of(check, {"spec.training.adaptation": "LoRA", "spec.training.lora": "{rank: 4}"})
    assert made.training.lora is not None
    assert (made.training.lora.rank, made.training.lora.alpha) == (4, 32.0)
