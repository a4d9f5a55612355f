"""Tracking against real MLflow: a database file, and a server process that is killed, stopped and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rewarm_trainer.tracking import UID_TAG, Tracker

mlflow_tracking = pytest.importorskip("mlflow.tracking")


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def begin(uri: str, spool: Path, **changes) -> Tracker:
    settings = {
        "experiment": "pubmed",
        "run_name": "llama-pubmed",
        "uid": "uid-1",
        "tags": {"rewarm.dev/base": "scratch"},
        "params": {"replay.ratio": 0.25},
        "spool": spool,
    }
    return Tracker.start(uri, **{**settings, **changes})


def client_of(uri: str):
    return mlflow_tracking.MlflowClient(tracking_uri=uri, registry_uri=uri)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client_of(uri).get_metric_history(run_id, name))


def losses(steps: Sequence[int]) -> list[tuple[int, float]]:
    return [(step * 64, 3.0 / step) for step in steps]


def train(tracker: Tracker, steps: Sequence[int]) -> float:
    """Log as a training loop does; returns the longest that one call held the loop up, in seconds."""
    longest = 0.0
    for step in steps:
        before = time.perf_counter()
        tracker.log({"train/loss": 3.0 / step, "train/tokens_per_second": time.perf_counter()}, tokens=step * 64)
        longest = max(longest, time.perf_counter() - before)
    return longest


# A database file beside the run (the default).


def test_a_run_is_tracked_and_found_again_by_its_id(tmp_path: Path) -> None:
    uri, spool = database(tmp_path), tmp_path / "spool"
    tracker = begin(uri, spool, artifact_root=tmp_path / "artifacts")
    train(tracker, range(1, 11))
    tracker.log({"train/loss": float("nan"), "train/grad_norm": 1.5}, tokens=11 * 64)
    (tmp_path / "report.html").write_text("<p>verdict</p>")
    tracker.attach(tmp_path / "report.html")
    finished = tracker.finish("KILLED", deadline_seconds=120)
    assert finished.delivered, finished.message
    run_id = tracker.run_id
    assert run_id

    run = client_of(uri).get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.info.run_name == "llama-pubmed"
    assert run.data.tags[UID_TAG] == "uid-1"
    assert run.data.tags["rewarm.dev/base"] == "scratch"
    assert run.data.params == {"replay.ratio": "0.25"}
    assert history(uri, run_id, "train/loss") == losses(range(1, 11))
    assert history(uri, run_id, "train/grad_norm") == [(704, 1.5)]
    assert list((tmp_path / "artifacts").rglob("report.html"))

    resumed = begin(uri, spool, tags={"rewarm.dev/base": "scratch", "attempt": 2}, params={"replay.ratio": 0.5})
    train(resumed, range(8, 15))  # 8 to 10 are computed again
    assert resumed.flush(60)
    assert client_of(uri).get_run(run_id).info.status == "RUNNING"
    assert resumed.finish("FINISHED", 60).delivered
    assert resumed.run_id == run_id
    run = client_of(uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempt"] == "2"
    assert run.data.params == {"replay.ratio": "0.25"}, "params are immutable: the first value stays"
    assert history(uri, run_id, "train/loss") == losses(range(1, 15))
    assert len(history(uri, run_id, "train/tokens_per_second")) == 14


STARTING = """
import sys
from pathlib import Path
from rewarm_trainer.tracking import Tracker
Tracker.start(sys.argv[1], "pubmed", "killed", "uid-killed", {}, {}, Path(sys.argv[2])).flush(120)
"""


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # journals come and go
        return 0


@pytest.mark.slow
def test_killed_while_mlflow_makes_its_database_the_next_start_makes_it(tmp_path: Path) -> None:
    """MLflow never opens a file again whose first migration was cut off: it must not stand in its place half-made."""
    arguments = [database(tmp_path), str(tmp_path / "spool")]
    starting = subprocess.Popen(
        [sys.executable, "-c", STARTING, *arguments], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    # In its place or beside it, wherever it is being made.
    while not any(size_of(path) > 50_000 for path in tmp_path.glob("*mlflow.db*")):
        assert starting.poll() is None, "it ended before its database was begun"
        os.sched_yield()
    starting.kill()
    starting.wait()
    assert not (tmp_path / "mlflow.db").exists(), "a half-made database stands in its place"
    tracker = begin(database(tmp_path), tmp_path / "spool", uid="uid-killed")
    train(tracker, [1, 2])
    assert tracker.finish("FINISHED", 120).delivered
    assert history(database(tmp_path), str(tracker.run_id), "train/loss") == losses([1, 2])


def test_processes_that_begin_at_once_share_one_new_database(tmp_path: Path) -> None:
    """Each asks for the serving version while its thread sends points; nobody made the database before."""
    program = (
        "import sys; from pathlib import Path; from rewarm_api.errors import MissingInputError\n"
        "from rewarm_trainer.tracking import Tracker, load_mlflow, model_source\n"
        "uri, spool = sys.argv[1:]; load_mlflow()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "tracker = Tracker.start(uri, experiment='e', run_name='r', uid=spool, tags={}, params={}, spool=Path(spool))\n"
        "tracker.log({'train/loss': 1.0}, tokens=1)\n"
        "try: model_source(uri, 'model', 'serving', None)\n"
        "except MissingInputError: print('no version', flush=True)\n"
        "sys.exit(0 if tracker.finish('FINISHED', 60).delivered else 3)\n"
    )
    uri = database(tmp_path)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, uri, str(tmp_path / f"spool-{number}")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        told, errors = process.communicate(timeout=120)
        assert (process.returncode, told) == (0, "no version\n"), errors[-2000:]
    assert len(client_of(uri).search_runs([client_of(uri).get_experiment_by_name("e").experiment_id])) == 2


def test_nothing_is_sent_until_the_first_step_unless_somebody_waits(tmp_path: Path) -> None:
    uri, spool = database(tmp_path), tmp_path / "spool"
    held = begin(uri, spool, hold_seconds=600.0)
    held.log({"eval/new/loss": 3.0}, 0)
    assert (held.run_id, held.pending) == (None, 1)
    held.begin()
    assert held.flush(120)
    run_id = held.run_id
    assert held.finish("FINISHED", deadline_seconds=120).delivered
    again = begin(uri, spool, hold_seconds=600.0)
    again.log({"eval/new/loss": 2.0}, 100)
    assert again.flush(120), "who waits is not held"
    assert again.finish("FINISHED", deadline_seconds=120).delivered
    assert again.run_id == run_id


def test_a_lost_spool_folder_finds_the_run_by_its_uid(tmp_path: Path) -> None:
    uri = database(tmp_path)
    first = begin(uri, tmp_path / "spool")
    train(first, [1, 2])
    assert first.finish("FAILED", 120).delivered
    shutil.rmtree(tmp_path / "spool")
    second = begin(uri, tmp_path / "spool")
    other = begin(uri, tmp_path / "other", uid="uid-2")
    train(second, [3])
    assert second.finish("FINISHED", 60).delivered
    assert other.finish("FINISHED", 60).delivered
    assert second.run_id == first.run_id
    assert other.run_id != first.run_id
    assert history(uri, str(first.run_id), "train/loss") == losses([1, 2, 3])


def test_a_deleted_database_gets_the_whole_history_again(tmp_path: Path) -> None:
    uri, spool = database(tmp_path), tmp_path / "spool"
    first = begin(uri, spool)
    train(first, range(1, 6))
    assert first.finish("KILLED", 120).delivered
    (tmp_path / "mlflow.db").unlink()
    client_of(uri)._tracking_client.store.engine.dispose()  # this process still holds the deleted file open
    moved = f"sqlite:///{tmp_path / 'new.db'}"
    second = begin(moved, spool)
    train(second, [6])
    assert second.finish("FINISHED", 120).delivered
    assert history(moved, str(second.run_id), "train/loss") == losses(range(1, 7))


def test_a_database_that_was_put_back_gets_what_it_had_since(tmp_path: Path) -> None:
    """A backup from the middle of the run: the receipt says that all arrived, the server has half."""
    uri, spool = database(tmp_path), tmp_path / "spool"
    first = begin(uri, spool)
    train(first, range(1, 4))
    assert first.finish("KILLED", 120).delivered
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "backup.db")
    second = begin(uri, spool)
    train(second, range(4, 8))
    assert second.finish("KILLED", 60).delivered
    older = f"sqlite:///{tmp_path / 'backup.db'}"
    third = begin(older, spool)
    train(third, [8])
    assert third.finish("FINISHED", 60).delivered
    assert history(older, str(third.run_id), "train/loss") == losses(range(1, 9))
    assert len(history(older, str(third.run_id), "train/tokens_per_second")) == 8


def test_a_batch_whose_answer_was_lost_is_stored_once(tmp_path: Path) -> None:
    uri, spool = database(tmp_path), tmp_path / "spool"
    first = begin(uri, spool)
    assert first.flush(120)
    receipt = (spool / "receipt.json").read_bytes()
    train(first, range(1, 8))
    assert first.finish("KILLED", 60).delivered
    (spool / "receipt.json").write_bytes(receipt)  # as if killed after sending, before writing it down
    second = begin(uri, spool)
    assert second.finish("FINISHED", 60).delivered
    assert history(uri, str(second.run_id), "train/loss") == losses(range(1, 8))


def test_one_refused_point_does_not_hold_back_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = database(tmp_path)
    tracker = begin(uri, tmp_path / "spool")
    tracker.log({"train/loss": 1.0, "eval/what? no/loss": 2.0, "train/grad_norm": 3.0}, tokens=64)
    assert tracker.finish("FINISHED", 120).delivered
    assert history(uri, str(tracker.run_id), "train/loss") == [(64, 1.0)]
    assert history(uri, str(tracker.run_id), "train/grad_norm") == [(64, 3.0)]
    assert "eval/what? no/loss at 64 tokens is refused" in caplog.text


def test_a_model_version_is_registered_once_and_the_alias_moves(tmp_path: Path) -> None:
    uri = database(tmp_path)
    tracker = begin(uri, tmp_path / "spool")
    tags = {"rewarm.dev/verdict": "Win", "rewarm.dev/replay-ratio": 0.25}
    version = tracker.register("llama-pubmed", str(tmp_path / "checkpoints/step-00000010"), tags, deadline_seconds=120)
    again = tracker.register("llama-pubmed", str(tmp_path / "checkpoints/step-00000010"), {"rewarm.dev/verdict": "Tie"})
    other = tracker.register("llama-pubmed", str(tmp_path / "checkpoints/step-00000020"), tags)
    assert (version, again, other) == ("1", "1", "2")
    assert tracker.set_alias("llama-pubmed", "champion", "2")
    assert not tracker.set_alias("llama-pubmed", "champion", "17")
    assert tracker.finish("FINISHED", 60).delivered
    champion = client_of(uri).get_model_version_by_alias("llama-pubmed", "champion")
    assert str(champion.version) == "2"
    assert champion.run_id == tracker.run_id
    assert client_of(uri).get_model_version("llama-pubmed", "1").tags["rewarm.dev/verdict"] == "Tie"


def test_a_status_that_mlflow_does_not_know_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    tracker = begin(database(tmp_path), tmp_path / "spool")
    with pytest.raises(ValueError, match=r"found 'Succeeded', expected one of FINISHED, FAILED, KILLED"):
        tracker.finish("Succeeded")
    assert tracker.finish("FINISHED", 120).delivered


# A server that goes away and comes back.


class MlflowServer:
    """`mlflow server` as a process of its own, on one port and one database for its whole life."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        switches = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--workers", "1", "--backend-store-uri", database(self.folder)]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command + store + artifacts,
                env={**os.environ, **switches},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(f"{self.uri}/version", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"))
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_in_a_pod_the_run_is_waited_for_and_left_open(server: MlflowServer, tmp_path: Path) -> None:
    """The operator makes the run and ends it; the trainer adds to it, whoever of them comes first."""
    client = client_of(server.uri)
    tracker = begin(server.uri, tmp_path / "spool", uid="of-the-operator", owned=False)
    train(tracker, range(1, 6))
    while "waiting for the operator" not in (tracker.problem or ""):
        time.sleep(0.1)
    assert tracker.run_id is None
    assert tracker.pending > 0
    experiment = client.create_experiment("made-by-the-operator")
    begun = begin(server.uri, tmp_path / "none", uid="nobody", owned=False, run_id="0" * 32)
    other = client.create_run(experiment, tags={UID_TAG: "of-the-operator"}).info.run_id
    named = begin(server.uri, tmp_path / "named", uid="of-the-operator", owned=False, run_id=other)
    train(named, range(1, 6))
    assert named.flush(60)
    assert named.run_id == other, "by its id, whatever the experiment"
    pubmed = client.get_experiment_by_name("pubmed")
    place = pubmed.experiment_id if pubmed else client.create_experiment("pubmed")
    run_id = client.create_run(place, tags={UID_TAG: "of-the-operator"}).info.run_id
    assert tracker.flush(90)
    assert tracker.run_id == run_id
    assert history(server.uri, run_id, "train/loss") == losses(range(1, 6))
    version = tracker.register("llama", "claim://runs/team/llama/step-00000040", {"rewarm.dev/run": "llama"})
    assert version == "1"
    assert tracker.finish("FAILED", deadline_seconds=60).delivered
    assert client.get_run(run_id).info.status == "RUNNING"
    assert not begun.finish("FAILED", deadline_seconds=1).delivered


@pytest.mark.slow
def test_a_server_killed_and_restarted_in_the_middle_gets_every_metric_once(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rewarm.tracking")
    tracker = begin(server.uri, tmp_path / "spool", uid="outage")
    train(tracker, range(1, 51))
    assert tracker.flush(60)
    server.kill()
    longest = train(tracker, range(51, 101))
    assert longest < 2, "an outage must not reach the training loop"
    assert not tracker.flush(3)
    assert tracker.problem
    assert "points wait on disk, training goes on" in caplog.text
    assert tracker.pending == 100
    server.start()
    train(tracker, range(101, 121))
    assert tracker.flush(60)
    assert tracker.problem is None
    assert tracker.finish("FINISHED", 30).delivered
    assert history(server.uri, str(tracker.run_id), "train/loss") == losses(range(1, 121))
    assert len(history(server.uri, str(tracker.run_id), "train/tokens_per_second")) == 120


@pytest.mark.slow
def test_a_server_that_hangs_costs_no_more_than_the_deadline_and_the_next_attempt_delivers(
    server: MlflowServer, tmp_path: Path
) -> None:
    tracker = begin(server.uri, tmp_path / "spool", uid="hangs")
    train(tracker, range(1, 11))
    assert tracker.flush(60)
    server.signal(signal.SIGSTOP)
    try:
        assert train(tracker, range(11, 31)) < 2
        before = time.perf_counter()
        assert tracker.register("llama-pubmed", "s3://runs/step-1", {}, deadline_seconds=1) is None
        finished = tracker.finish("FINISHED", deadline_seconds=2)
        assert time.perf_counter() - before < 10
        assert not finished.delivered
        assert finished.pending == 40
        assert "40 points wait in the work folder" in finished.message
    finally:
        server.signal(signal.SIGCONT)
    again = begin(server.uri, tmp_path / "spool", uid="hangs")
    assert again.finish("FINISHED", 60).delivered
    run = client_of(server.uri).get_run(str(again.run_id))
    assert run.info.status == "FINISHED"
    assert history(server.uri, str(again.run_id), "train/loss") == losses(range(1, 31))


TRAINING = """
import sys, time
from pathlib import Path
from rewarm_trainer.tracking import Tracker
began = time.perf_counter()
tracker = Tracker.start(sys.argv[1], "pubmed", "killed", "uid-killed", {}, {}, Path(sys.argv[2]))
assert time.perf_counter() - began < 2, "the constructor must return at once"
for step in range(1, 41):
    tracker.log({"train/loss": 3.0 / step}, step * 64)
print("logged", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_trainer_killed_while_no_server_was_there_loses_nothing(server: MlflowServer, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refuses every connection
        uri = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        trainer = subprocess.Popen(
            [sys.executable, "-c", TRAINING, uri, str(tmp_path / "spool")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"logged\n"
        trainer.kill()
        trainer.communicate(timeout=30)
    tracker = begin(server.uri, tmp_path / "spool", uid="uid-killed")
    train(tracker, range(38, 51))  # the resumed attempt computes some steps again
    assert tracker.finish("FINISHED", 60).delivered
    assert history(server.uri, str(tracker.run_id), "train/loss") == losses(range(1, 51))


@pytest.mark.slow
def test_a_served_registry_takes_a_checkpoint_address_and_says_why_not_a_local_path(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = begin(server.uri, tmp_path / "spool", uid="registry")
    version = tracker.register(
        "served", "s3://runs/llama-pubmed/checkpoints/step-00000100", {"rewarm.dev/verdict": "Win"}
    )
    assert version is not None
    assert tracker.set_alias("served", "champion", version)
    assert tracker.register("served", str(tmp_path / "step-00000100"), {}) is None
    assert "model served is not registered from" in caplog.text
    report = tmp_path / "report.html"
    report.write_text("<p>verdict</p>")
    tracker.attach(report)
    assert tracker.finish("FINISHED", 60).delivered
    artifacts = client_of(server.uri).list_artifacts(str(tracker.run_id))
    assert [artifact.path for artifact in artifacts] == ["report.html"]
