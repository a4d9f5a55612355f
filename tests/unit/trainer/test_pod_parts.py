"""Small parts of pods: what they are told, claims, processors, addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rewarm_api.errors import ManifestError, MissingInputError
from rewarm_trainer.claims import claim_path
from rewarm_trainer.corpus.inputs import expand
from rewarm_trainer.pod_settings import Pod
from rewarm_trainer.pod_train import is_worker
from rewarm_trainer.processors import processors
from rewarm_trainer.storage import open_storage

ROOT = Path(__file__).parents[3]


def test_defaults_are_the_contract() -> None:
    pod = Pod.from_environment({"REWARM_RUN": "r", "JOB_COMPLETION_INDEX": "1", "REWARM_METRICS_PORT": "9400"})
    assert pod.config == Path("/etc/rewarm")
    assert pod.work == Path("/var/lib/rewarm/work")
    assert pod.cache == Path("/var/lib/rewarm/cache")
    assert pod.termination_log == Path("/dev/termination-log")
    assert (pod.node, pod.master_port, pod.metrics_port, pod.linger_seconds) == (1, 29500, 9400, 60.0)


def test_a_value_that_is_no_number_is_named() -> None:
    with pytest.raises(ManifestError, match="REWARM_NODES: found two, expected a number"):
        Pod.from_environment({"REWARM_NODES": "two"})


def test_a_claim_is_where_it_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "text").mkdir(parents=True)
    (tmp_path / "data" / "text" / "a.txt").write_text("a")
    (tmp_path / "data" / "text" / "b.txt").write_text("b")
    with pytest.raises(MissingInputError, match="no claims are mounted here"):
        claim_path("claim://data/text")
    monkeypatch.setenv("REWARM_CLAIMS", str(tmp_path))
    assert claim_path("claim://data/text/a.txt") == tmp_path / "data" / "text" / "a.txt"
    with pytest.raises(MissingInputError, match="claim 'other' is not mounted in this pod"):
        claim_path("claim://other/text")
    with pytest.raises(MissingInputError, match="leaves its claim"):
        claim_path("claim://data/../other")
    for uri in ("claim://data/text", "claim://data/text/*.txt"):
        assert [file.relative for file in expand(uri, Path("/"))] == ["a.txt", "b.txt"]
    with pytest.raises(MissingInputError, match=r"claim://data/none/\*.txt: no file matches"):
        expand("claim://data/none/*.txt", Path("/"))
    store = open_storage("claim://data/runs/", root=Path("/"))
    store.put("a/b", b"c")
    assert (tmp_path / "data" / "runs" / "a" / "b").read_bytes() == b"c"
    assert (store.uri("a/b"), store.uri("")) == ("claim://data/runs/a/b", "claim://data/runs")


@pytest.mark.parametrize(
    ("version", "files", "expected"),
    [
        (2, {"cpu.max": "150000 100000"}, 2),
        (2, {"cpu.max": "50000 100000"}, 1),
        (2, {"cpu.max": "max 100000"}, None),
        (1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (0, {}, None),
    ],
)
def test_processors_are_those_of_the_container(
    tmp_path: Path, version: int, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    allowed = len(os.sched_getaffinity(0))
    assert processors(tmp_path) == (allowed if expected is None else min(expected, allowed))


def test_neither_preparation_nor_the_wrapper_imports_torch() -> None:
    script = (
        "import sys, rewarm_trainer.pod, rewarm_trainer.pod_prepare, rewarm_trainer.pod_train;"
        "print([name for name in ('torch', 'transformers', 'mlflow', 'boto3') if name in sys.modules])"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in ("api", "trainer"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.stdout.strip() == "[]", done.stderr


WATCHED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from rewarm_trainer import pod_train

notes, seen, agent_seconds = Path(sys.argv[1]), [list(map(int, word)) for word in sys.argv[2].split(",")], sys.argv[3]
pod_train.STRAGGLER_SECONDS = 1.2
pod_train.is_worker = lambda number: True
really = pod_train.children_of
pod_train.children_of = lambda number, deep=True: really(number) if deep else (seen.pop(0) if seen[1:] else seen[0])
pod = SimpleNamespace(notes=notes, processes=1, nodes=1, shutdown_seconds=1.0)
began = time.monotonic()
agent = [sys.executable, "-c", "import sys, time; time.sleep(float(sys.argv[1]))", agent_seconds]
ending = pod_train.Wrapper(pod).run(agent, {})
print(ending.code, ending.message)
"""


@pytest.mark.parametrize(
    ("seen", "agent_seconds", "said"),
    [("1,,1", "4", "0"), ("1,", "60", "137 a worker went away without a word")],
    ids=["once not in the list", "gone for good"],
)
def test_a_worker_is_gone_only_when_it_stays_away(tmp_path: Path, seen: str, agent_seconds: str, said: str) -> None:
    """A wrapper as process of its own, whose kernel leaves the worker out of a list: once, or from then on."""
    command = [sys.executable, "-c", WATCHED, str(tmp_path), seen, agent_seconds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == said, done.stderr


def test_what_torchrun_is_about_to_start_is_no_worker_yet(tmp_path: Path) -> None:
    sleep = "import time; print(1, flush=True); time.sleep(60)"
    for words, expected in (
        (["-m", "rewarm_trainer.pod_worker"], True),
        (["rewarm_trainer.pod_agent", "-m", "rewarm_trainer.pod_worker"], False),
        (["something"], False),
    ):
        with subprocess.Popen([sys.executable, "-c", sleep, *words], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert is_worker(process.pid) is expected
            process.kill()
    assert not is_worker(process.pid), "it is gone"
