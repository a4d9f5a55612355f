"""The report has the names and signs of the contract; attempts follow from the log alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm_api.errors import DataError, MissingInputError
from rewarm_trainer.findings import amount, change, signed, verdict_sentences
from rewarm_trainer.report import Facts, Look, Loss, SetFacts, build_report, load_report
from rewarm_trainer.runlog import Attempt, arrange, attempts_from_log, derive_attempts, read_log

BATCH = 1000

# report.json, version 1, as cli.md has it: every name, in the place where scripts look for it.
CONTRACT = {
    "version": int,
    "run": {"name": str, "uid": str, "snapshot_digest": str},
    "outcome": str,
    "tokens": {"requested": int, "trained": int, "by_source": dict, "epochs": dict},
    "replay": {"requested": float, "realized": float},
    "sets": dict,
    "forgetting": {"max": float, "mean": float},
    "gain": {"mean": float},
    "gates": list,
    "promotion": {"promoted": bool, "reason": str},
    "attempts": list,
    "checkpoint": {"uri": str, "step": int, "sha256": str},
    "tracking": {"run_id": str, "model_version": str},
    "throughput": {"tokens_per_second": float, "seconds": dict},
}
SET_CONTRACT = {
    "role": str,
    "documents": int,
    "tokens": int,
    "baseline": {"loss": float, "bits_per_byte": float},
    "final": {"loss": float, "bits_per_byte": float},
    "delta": {"mean": float, "low": float, "high": float, "confidence": float},
    "verdict": str,
    "stability_gap": {"depth": float, "low": float, "high": float, "peak_tokens": int, "recovered_tokens": int},
    "history": list,
}


def conforms(value: Any, contract: Any, where: str = "report") -> None:
    if isinstance(contract, dict):
        for name, part in contract.items():
            assert name in value, f"{where}.{name} is missing"
            conforms(value[name], part, f"{where}.{name}")
    else:
        assert isinstance(value, contract), f"{where} is {value!r}"


def test_a_finished_run_has_every_name_of_the_contract(example: Any) -> None:
    report = build_report(example.facts)
    conforms(report, CONTRACT)
    conforms(report["sets"]["stdlib-docs"], SET_CONTRACT, "set")
    assert report["version"] == 1
    assert report["gates"][0] == {"name": "maxForgetting", "limit": 0.02, "value": 0.0124, "result": "Pass"}
    assert report["attempts"][0] == {
        "number": 1, "cause": "Unknown", "first_step": 1, "last_step": 250, "tokens_recomputed": 81920,
    }  # fmt: skip
    assert report["sets"]["stdlib-code"]["history"][0] == {"tokens": 0, "loss": 3.7125}


def test_a_run_that_got_nowhere_still_has_every_name() -> None:
    report = build_report(
        Facts("run", "uid", "sha256:0", "MissingInput", 1000, sets={"a": SetFacts("New", 0, 0, None)})
    )
    for name, part in CONTRACT.items():
        assert name in report
        if isinstance(part, dict):
            assert set(part) <= set(report[name])
    assert set(SET_CONTRACT) <= set(report["sets"]["a"])
    assert set(SET_CONTRACT["stability_gap"]) == set(report["sets"]["a"]["stability_gap"])
    assert report["checkpoint"] == {"uri": "", "step": 0, "sha256": ""}
    assert report["forgetting"] == {"max": None, "mean": None}


def test_numbers_that_are_not_finite_become_null_and_the_rest_is_strict_json(facts_with: Callable[..., Facts]) -> None:
    few = SimpleNamespace(mean=0.5, low=math.nan, high=math.inf, confidence=0.95)
    sets = {"a": SetFacts("New", 1, 9, Loss(math.inf, math.nan), Loss(2.0, 1.0), few, history=[Look(0, math.nan)])}
    report = build_report(facts_with(sets=sets, tokens_per_second=math.nan))
    assert report["sets"]["a"]["baseline"] == {"loss": None, "bits_per_byte": None}
    assert report["sets"]["a"]["delta"] == {"mean": 0.5, "low": None, "high": None, "confidence": 0.95}
    assert report["sets"]["a"]["history"] == [{"tokens": 0, "loss": None}]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_more_keys_may_be_added_but_none_of_the_contract_replaced(facts_with: Callable[..., Facts]) -> None:
    assert build_report(facts_with(extra={"phases": [1]}))["phases"] == [1]
    with pytest.raises(ValueError, match="found outcome, tokens, expected names that report"):
        build_report(facts_with(extra={"tokens": {}, "outcome": ""}))


def test_the_report_is_read_back_and_what_is_wrong_is_said(tmp_path: Path, example: Any) -> None:
    with pytest.raises(MissingInputError, match=r"report\.json: found no such file, expected the report") as missing:
        load_report(tmp_path)
    assert missing.value.exit_code == 66
    report = build_report(example.facts)
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert load_report(tmp_path) == report
    (tmp_path / "report.json").write_text('{"version": 1, "run"')
    with pytest.raises(DataError, match="found unreadable JSON"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text('{"version": 2}')
    with pytest.raises(DataError, match="found report version 2, expected 1"):
        load_report(tmp_path)


# The log and what it says about attempts.


def started(number: int, **more: Any) -> dict[str, Any]:
    return {"event": "attempt started", "number": number, "processes": 1, "pid": 1, **more}


def steps(*numbers: int) -> list[dict[str, Any]]:
    return [{"step": number, "tokens": number * BATCH, "loss": 1.0 / number} for number in numbers]


def committed(step: int) -> dict[str, Any]:
    return {"event": "checkpoint committed", "step": step, "tokens": step * BATCH, "path": f"step-{step:08d}"}


def ended(number: int, cause: str) -> dict[str, Any]:
    return {"event": "attempt ended", "number": number, "cause": cause}


def test_a_run_in_one_go_is_one_attempt() -> None:
    log = [started(1), *steps(1, 2, 3), committed(3), ended(1, "Completed")]
    assert derive_attempts(log) == [Attempt(1, "Completed", 1, 3, 0)]


def test_a_killed_attempt_is_unknown_and_pays_for_what_the_next_trains_again() -> None:
    log = [
        started(1), *steps(1, 2, 3, 4), committed(4), *steps(5, 6, 7),
        started(2), *steps(5, 6, 7, 8, 9, 10), committed(10), ended(2, "Completed"),
    ]  # fmt: skip
    assert derive_attempts(log) == [Attempt(1, "Unknown", 1, 7, 3 * BATCH), Attempt(2, "Completed", 5, 10, 0)]


def test_an_attempt_that_says_where_it_resumed_is_believed() -> None:
    """It fell back to an older checkpoint, because the newest was damaged."""
    log = [
        started(1, step=0), *steps(1, 2), committed(2), *steps(3, 4), committed(4), *steps(5),
        started(2, step=2), *steps(3, 4, 5, 6), ended(2, "Completed"),
    ]  # fmt: skip
    assert derive_attempts(log) == [Attempt(1, "Unknown", 1, 5, 3 * BATCH), Attempt(2, "Completed", 3, 6, 0)]


def test_sparse_logging_does_not_move_the_first_step() -> None:
    """After step 100 only every tenth is logged: the first line of a resume is not its first step."""
    log = [started(1), *steps(100, 110, 120), committed(125), *steps(130), started(2), *steps(130, 140), committed(140)]
    assert derive_attempts(log, last_cause="Completed") == [
        Attempt(1, "Unknown", 1, 130, 5 * BATCH),
        Attempt(2, "Completed", 126, 140, 0),
    ]


def test_a_preempted_attempt_loses_nothing() -> None:
    log = [started(1), *steps(1, 2), committed(2), ended(1, "Preempted"), started(2), *steps(3), ended(2, "Completed")]
    assert derive_attempts(log) == [Attempt(1, "Preempted", 1, 2, 0), Attempt(2, "Completed", 3, 3, 0)]


def test_attempts_that_made_no_step_lie_between_the_steps() -> None:
    log = [started(1), started(2), *steps(1, 2), committed(2), started(3), started(4), *steps(3), ended(4, "Completed")]
    assert derive_attempts(log) == [
        Attempt(1, "Unknown", 1, 0, 0),
        Attempt(2, "Unknown", 1, 2, 0),
        Attempt(3, "Unknown", 3, 2, 0),
        Attempt(4, "Completed", 3, 3, 0),
    ]


def test_the_cause_of_the_attempt_that_asks_is_given_by_it() -> None:
    assert derive_attempts([started(1), *steps(1)], last_cause="Preempted")[-1].cause == "Preempted"
    assert derive_attempts([started(1), *steps(1)])[-1].cause == "Unknown"
    assert derive_attempts([]) == []


def test_a_torn_line_in_the_middle_or_at_the_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = [json.dumps(record) for record in [started(1), *steps(1, 2)]]
    resumed = [json.dumps(record) for record in [started(2), *steps(2, 3)]]
    path.write_bytes("\n".join([*whole, '{"step": 3, "tok', *resumed, '{"step": 4, "tokens": 40']).encode() + b"\xff")
    log = read_log(path)
    assert [step["step"] for step in log.steps] == [1, 2, 3]
    assert [attempt.last_step for attempt in attempts_from_log(path, last_cause="Completed")] == [2, 3]


def test_a_log_that_is_not_there_is_66(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"log\.jsonl: found no such file"):
        read_log(tmp_path / "log.jsonl")


def test_of_a_step_computed_twice_the_last_record_counts() -> None:
    again = {"step": 2, "tokens": 2 * BATCH, "loss": 7.0}
    look = {"event": "evaluation", "step": 2, "tokens": 2 * BATCH}
    log = arrange([started(1), *steps(1, 2), {**look, "gain": 1}, started(2), again, {**look, "gain": 2}])
    assert [step["loss"] for step in log.steps] == [1.0, 7.0]
    assert [event["gain"] for event in log.evaluations] == [2]


def test_what_lies_beyond_the_point_of_resumption_is_not_part_of_the_run() -> None:
    look = {"event": "evaluation", "step": 4, "tokens": 4 * BATCH}
    log = arrange([started(1, step=0), *steps(1, 2, 3, 4), look, started(2, step=2), *steps(3)])
    assert [step["step"] for step in log.steps] == [1, 2, 3]
    assert log.evaluations == []


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=6))
def test_steps_of_all_attempts_add_up(plan: list[tuple[int, int]]) -> None:
    """Whatever is killed when: what was trained, minus what was trained again, is what the run has."""
    log: list[dict[str, Any]] = []
    resumed = 0
    for number, (length, keep) in enumerate(plan, start=1):
        log.append(started(number, step=resumed))
        last = resumed + length
        commit = min(last, resumed + keep)
        for step in range(resumed + 1, last + 1):
            log.extend(steps(step))
            if step == commit:
                log.append(committed(step))
        resumed = commit
    attempts = derive_attempts(log)
    trained = sum((attempt.last_step - attempt.first_step + 1) * BATCH for attempt in attempts)
    again = sum(attempt.tokens_recomputed for attempt in attempts)
    assert trained - again == attempts[-1].last_step * BATCH
    assert [attempt.number for attempt in attempts] == list(range(1, len(plan) + 1))


# Words.


def judged(role: str, mean: float, low: float | None, high: float | None, verdict: str | None) -> dict[str, Any]:
    delta = {"mean": mean, "low": low, "high": high, "confidence": 0.95}
    return {"role": role, "documents": 12, "delta": delta, "verdict": verdict}


@pytest.mark.parametrize(
    ("value", "sentence", "tone"),
    [
        (("New", -0.84, -0.88, -0.8, "Win"),
         "Learned: new-domain loss (a) fell by 0.84 nats per token [0.80, 0.88].", "good"),
        (("Retained", 0.0124, 0.0083, 0.0169, "Lose"),
         "Forgot: old-domain loss (a) rose by 0.012 nats per token [0.008, 0.017].", "bad"),
        (("Retained", 0.001, -0.002, 0.004, "Tie"),
         "No forgetting shown: old-domain loss (a) changed by +0.001 nats per token [−0.002, +0.004]; "
         "no change lies inside the interval.", "good"),
        (("New", 0.5, 0.4, 0.6, "Lose"), "Did not learn: new-domain loss (a) rose by 0.50 nats per token [0.40, 0.60].",
         "bad"),
        (("New", -0.2, None, None, None),
         "Undecided: new-domain loss (a) changed by −0.200 nats per token, but 12 documents are too few to judge.",
         "open"),
    ],
)  # fmt: skip
def test_the_verdict_in_words(value: tuple[Any, ...], sentence: str, tone: str) -> None:
    (finding,) = verdict_sentences({"outcome": "Succeeded", "sets": {"a": judged(*value)}})
    assert str(finding) == sentence
    assert finding.tone == tone


def test_a_failed_run_says_so_first_and_new_sets_come_before_retained_ones() -> None:
    sets = {"old": judged("Retained", 0.1, 0.05, 0.15, "Lose"), "new": judged("New", -0.1, -0.15, -0.05, "Win")}
    report = {
        "outcome": "Diverged", "message": "Loss was not finite.", "tokens": {"trained": 500, "requested": 1000},
        "sets": sets,
    }  # fmt: skip
    findings = verdict_sentences(report)
    assert str(findings[0]) == "Diverged: 500 of 1,000 tokens trained. Loss was not finite."
    assert [finding.word for finding in findings] == ["Diverged", "Learned", "Forgot"]


def test_numbers_in_words_keep_their_sign_and_zero_has_none() -> None:
    assert signed(-0.0004) == "0.000"
    assert signed(-0.5) == "\N{MINUS SIGN}0.500"
    assert change({"mean": 0.25, "low": None, "high": None}) == "+0.250 nats per token"
    assert amount({"mean": -0.00312, "low": -0.0033, "high": -0.003}) == "0.0031 nats per token [0.0030, 0.0033]"
