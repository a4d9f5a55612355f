"""The operator's campaign in short (`make campaign NAME=operator` is the long one), and a case that it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
from operator_process import Place, condition, prepare_only
from real_cluster import needs_control_plane

from campaigns.operator_cases import CASES
from campaigns.operator_faults import Campaign, points
from campaigns.operator_stage import HARD, PLAIN, Json, Stage
from campaigns.tally import OF_OPERATORS, Tally
from rewarm_cluster.control_plane import ControlPlane

# Seconds each; the patience is for machines that many share.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), needs_control_plane("jobs")]

SOME = (
    "409 to a write", "an answer lost", "its clock 10 min behind", "frozen when it posts a Job",
    "a pod stuck Terminating", "a Job deleted by hand, no operator there",
)  # fmt: skip
KILLS = 8


@pytest.fixture(scope="module")
def stage(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(cluster, tmp_path_factory.mktemp("lives"))


@pytest.fixture(scope="module")
def peace(stage: Stage) -> dict[str, tuple[Json, list[Any]]]:
    return {"hard": stage.undisturbed(HARD), "plain": stage.undisturbed(PLAIN)}


def test_killed_at_writes_of_all_kinds(stage: Stage, peace: dict[str, Any]) -> None:
    expected, requests = peace["hard"]
    aims = points(requests)
    work = Campaign(stage, Tally("kills", columns=OF_OPERATORS))
    work.kills(expected, aims[:: len(aims) // KILLS | 1])
    assert work.tally.is_clean, work.tally.problems
    assert work.tally.injected >= KILLS / 2


def test_other_faults(stage: Stage, peace: dict[str, Any]) -> None:
    work = Campaign(stage, Tally("faults", columns=OF_OPERATORS))
    chosen = [case for case in CASES if case.kind in SOME]
    assert len(chosen) == len(SOME)
    work.cases({name: expected for name, (expected, _) in peace.items()}, chosen)
    assert work.tally.is_clean, work.tally.problems
    assert set(work.tally.by_kind) == set(SOME)


def test_a_late_post_makes_no_second_attempt_of_what_has_ended(place: Place) -> None:
    """The network held it back until the attempt had ended and its Job was gone: nobody can tell it from a new one."""
    path = place.submit()
    with place.kubelet(prepare_only), place.operator():
        place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
        (late,) = (each for each in place.proxy.writes if each.method == "POST" and str(each).endswith("/run-a1"))
        place.edit(path, {"spec": {"suspend": True}})
        place.api.wait(path, lambda run: condition(run, "Suspended")[0] == "True")
        place.api.wait(f"{place.jobs}/run-a1", lambda job: job is None)
        assert place.api.call("POST", late.path, late.body)[0] == 201
        place.api.wait(f"{place.jobs}/run-a1", lambda job: job is None)
        place.edit(path, {"spec": {"suspend": False}})
        run = place.api.wait(path, lambda run: condition(run, "Running")[0] == "True")
    assert place.job_names() == ["run-a2", "run-prepare"]
    assert [each.get("cause") for each in run["status"]["attempts"]] == ["Suspended", None]
