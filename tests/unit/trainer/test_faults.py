"""Fault points: what the variable may say, and that nothing of a manifest or a pod can set one off."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rewarm_api.manifest import read_manifest
from rewarm_api.validate import validate
from rewarm_trainer.faults import POINTS, VARIABLE, armed

FULL = Path(__file__).parents[1] / "api" / "full.yaml"
REACH = "from rewarm_trainer.faults import reached; [reached('commit.file') for _ in range(3)]; print('alive')"


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": ":".join(sys.path), **environment}
    return subprocess.run([sys.executable, "-c", REACH], capture_output=True, text=True, env=environment)


def test_a_process_dies_at_the_visit_that_is_named_and_at_no_other() -> None:
    assert run({VARIABLE: "commit.file:3"}).returncode == -signal.SIGKILL
    for harmless in ({VARIABLE: "commit.file:4"}, {VARIABLE: "commit.marker:1"}, {}):
        assert run(harmless).stdout == "alive\n"


def test_in_a_pod_it_is_not_read() -> None:
    """A secret of `credentials` becomes environment too; REWARM_RUN is set by the operator in every pod."""
    assert run({VARIABLE: "commit.file:1", "REWARM_RUN": "llama"}).stdout == "alive\n"


def test_no_manifest_may_set_it() -> None:
    document = read_manifest(FULL)
    document["spec"]["compute"]["podTemplate"]["env"] = [{"name": VARIABLE, "value": "commit.file:1"}]
    (problem,) = validate(document, local=None).problems
    assert (problem.field, problem.found) == ("spec.compute.podTemplate.env[0].name", VARIABLE)


@pytest.mark.parametrize(
    "text", ["commit.flie:1", "commit.file", "commit.file:0", "commit.file:x", "commit.file:1:TERM"]
)
def test_a_campaign_cannot_miss_silently(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected POINT:N or POINT:N:STOP, a point of claim\.before"):
        armed(text, in_pod=False)


def test_points_are_named_once_and_stand_in_the_code() -> None:
    assert len(set(POINTS)) == len(POINTS)
    code = "".join(path.read_text() for path in (Path(__file__).parents[3] / "trainer/rewarm_trainer").glob("*.py"))
    for point in POINTS:
        assert f'reached("{point}")' in code, point
