"""MLflow brought to the asked state, by MLflow itself over its own database: found again, made once, never twice."""

from __future__ import annotations

import asyncio
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rewarm_operator.actions import Track
from rewarm_operator.observed import Registry
from rewarm_operator.registry import RegistryWorker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


class Worker:
    """A worker whose answers are kept like the store keeps them."""

    def __init__(self, own: str = "") -> None:
        self.own = own
        self.known: dict[str, Registry] = {}
        self.answers: list[Registry] = []

    def track(self, *tracks: Track, times: int = 1) -> Registry:
        async def work() -> None:
            arrived = asyncio.Event()

            def answer(uid: str, registry: Registry) -> None:
                self.known[uid] = registry
                self.answers.append(registry)
                arrived.set()

            worker = RegistryWorker(lambda uid: self.known.get(uid, Registry()), answer, lambda uid: None, own=self.own)
            task = asyncio.create_task(worker.run())
            for track in tracks:
                arrived.clear()
                for _ in range(times):
                    worker.submit(track.uid, track)
                await asyncio.wait_for(arrived.wait(), 120)
            task.cancel()
            worker.close()

        asyncio.run(work())
        return self.answers[-1]


def track(uri: str, uid: str, **changes: Any) -> Track:
    values: dict[str, Any] = {"uri": uri, "experiment": "pubmed", "run_name": "llama", "uid": uid}
    return Track(**{**values, "tags": {"rewarm.dev/namespace": "team"}, **changes})


def runs(client: Any, uid: str) -> list[Any]:
    experiment = client.get_experiment_by_name("pubmed").experiment_id
    return list(client.search_runs([experiment], f"tags.`rewarm.dev/run-uid` = '{uid}'"))


def test_the_run_is_made_once_and_found_again_after_a_restart(uri, client):
    first = Worker().track(track(uri, "u1"), times=3)
    assert first.problem == ""
    again = Worker().track(track(uri, "u1"))
    assert again.run_id == first.run_id
    (run,) = runs(client, "u1")
    assert run.info.run_name == "llama"
    assert run.data.tags["rewarm.dev/namespace"] == "team"
    assert run.info.status == "RUNNING"


def test_version_alias_and_end_are_each_done_once(uri, client):
    wanted = track(
        uri, "u2", model="llama", source="s3://runs/step-64/", version_tags={"rewarm.dev/forgetting": "0.01"},
        alias="champion", end="FINISHED",
    )  # fmt: skip
    first = Worker().track(wanted)
    assert (first.model_version, first.promoted_alias, first.promoted_version) == ("1", "champion", "1")
    assert first.ended == "FINISHED"
    again = Worker().track(wanted)
    assert again == first
    assert [str(v.version) for v in client.search_model_versions("name = 'llama'")] == ["1"]
    assert str(client.get_model_version_by_alias("llama", "champion").version) == "1"
    assert client.get_model_version("llama", "1").tags == {
        "rewarm.dev/forgetting": "0.01",
        "rewarm.dev/promoted": "champion",
    }
    assert runs(client, "u2")[0].info.status == "FINISHED"


def test_a_rollback_moves_the_alias_to_the_named_version_only(uri, client):
    Worker().track(track(uri, "u3", model="qwen", source="s3://runs/a/", alias="champion"))
    Worker().track(track(uri, "u4", model="qwen", source="s3://runs/b/", alias="champion"))
    assert str(client.get_model_version_by_alias("qwen", "champion").version) == "2"
    back = Worker().track(track(uri, "u4", model="qwen", alias="champion", version="1", ask="5"))
    assert (back.promoted_version, back.problem) == ("1", "")
    assert str(client.get_model_version_by_alias("qwen", "champion").version) == "1"


def test_a_version_is_promoted_by_itself_only_once(uri, client):
    """Runs made again on a rebuilt cluster find their old verdicts: what people decided since must stand."""
    for uid, source in (("u8", "s3://runs/g/"), ("u9", "s3://runs/h/")):
        Worker().track(track(uri, uid, model="mamba", source=source, alias="champion"))
    for made_again, version in (("u8-again", "1"), ("u9-again", "2"), ("u8-again", "1")):
        answer = Worker().track(track(uri, made_again, model="mamba", alias="champion", version=version))
        assert (answer.promoted_alias, answer.promoted_version, answer.problem) == ("champion", "2", "")
    Worker().track(track(uri, "u9", model="mamba", alias="champion", version="1", ask="7"))
    answer = Worker().track(track(uri, "u9-again", model="mamba", alias="champion", version="2"))
    assert answer.promoted_version == "1", "the roll-back stands"
    assert str(client.get_model_version_by_alias("mamba", "champion").version) == "1"


class Listener(BaseHTTPRequestHandler):
    """A server that says no, and keeps what it was told."""

    heard: ClassVar[list[str]] = []

    body: ClassVar[str] = ""
    status: ClassVar[int] = 403

    def do_GET(self) -> None:
        self.heard.append(self.headers.get("Authorization", ""))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize("own", [True, False])
def test_credentials_go_to_the_administrators_server_and_to_no_other(own, monkeypatch):
    """A manifest may name any server: it must not be told who the operator is."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    Listener.heard.clear()
    answer = Worker(own=uri if own else "http://mlflow.mlops:5000").track(track(uri, "u10"))
    server.shutdown()
    server.server_close()
    assert answer.problem
    assert set(Listener.heard) == ({"Bearer canary"} if own else {""})
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "canary"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, "canary of an inner service", "MlflowException, ENDPOINT_NOT_FOUND (404)"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "canary"}', "RestException, PERMISSION_DENIED (403)"),
        (403, '{"error_code": "canary", "message": "canary"}', "RestException"),
        (200, "canary, and no JSON", "MlflowException, INTERNAL_ERROR (500)"),
        (200, '{"experiment": {"experiment_id": "1", "canary": "canary"}}', "NotAnIdentifier"),
        (200, '{"experiment": "canary"}', "NotAnIdentifier"),
    ],
)
def test_what_the_server_of_an_author_answers_is_not_shown(status, body, kind, monkeypatch):
    """The operator may reach what the author may not: it tells the kind of failure, and nothing of the answer."""
    monkeypatch.setattr(Listener, "status", status)
    monkeypatch.setattr(Listener, "body", body)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    answer = Worker(own="http://mlflow.mlops:5000").track(track(uri, "u11"))
    shown = Worker(own=uri).track(track(uri, "u11"))
    server.shutdown()
    server.server_close()
    assert answer.problem.startswith(f"{uri}: {kind}"), answer.problem
    assert "canary" not in str(answer)
    if status != 200:
        assert "canary" in shown.problem, "the administrator's own server is quoted"


def test_an_id_that_no_mlflow_makes_is_not_shown(uri, client, monkeypatch):
    made = Worker().track(track(uri, "u12"))
    run = client.get_run(made.run_id)
    run.info._run_id = "a word of an inner service"
    monkeypatch.setattr("rewarm_operator.registry.Server.run", lambda *_: run)
    answer = Worker().track(track(uri, "u13"))
    assert "NotAnIdentifier" in answer.problem
    assert answer == Registry(problem=answer.problem)


def test_a_version_that_does_not_exist_is_a_problem_and_moves_nothing(uri, client):
    Worker().track(track(uri, "u5", model="phi", source="s3://runs/c/", alias="champion"))
    answer = Worker(own=uri).track(track(uri, "u5", model="phi", alias="champion", version="99"))
    assert "99" in answer.problem
    assert answer.run_id
    assert str(client.get_model_version_by_alias("phi", "champion").version) == "1"


def test_a_person_who_asks_for_a_version_that_does_not_exist_is_answered(uri, client):
    Worker().track(track(uri, "u6", model="gpt", source="s3://runs/d/", alias="champion"))
    answer = Worker().track(track(uri, "u6", model="gpt", alias="champion", version="99", ask="17"))
    assert (answer.answered, answer.promoted_version, answer.problem) == ("17", "", "")
    answer = Worker().track(track(uri, "u6", model="gpt", alias="champion", version="1", ask="18"))
    assert (answer.answered, answer.promoted_version) == ("18", "1")
    assert str(client.get_model_version_by_alias("gpt", "champion").version) == "1"


def test_what_was_withdrawn_while_the_server_was_away_is_not_done(tmp_path):
    folder = tmp_path / "away"
    uri = f"sqlite:///{folder}/mlflow.db"
    answers: list[Registry] = []

    async def withdraw() -> list[str]:
        asked: asyncio.Queue[str] = asyncio.Queue()
        worker = RegistryWorker(
            lambda uid: Registry(), lambda uid, answer: answers.append(answer), asked.put_nowait, first_wait=0.05
        )
        task = asyncio.create_task(worker.run())
        worker.submit("u7", track(uri, "u7", model="bert", source="s3://runs/e/", alias="champion"))
        heard = [await asyncio.wait_for(asked.get(), 120)]
        # The run is asked for its wish, and wishes for nothing any more: nothing may be on its way.
        assert worker._queue.empty()
        assert len(answers) == 1
        worker.submit("u7", track(uri, "u7"))
        heard.append(await asyncio.wait_for(asked.get(), 120))
        task.cancel()
        worker.close()
        return heard

    folder.write_text("a file where the folder should be")
    assert asyncio.run(withdraw()) == ["u7", "u7"]
    assert all(answer.problem for answer in answers)


def test_a_server_that_is_away_is_a_problem_in_one_line_and_asked_again():
    answer = Worker().track(track("http://user:secret@127.0.0.1:9", "u6"))
    assert answer.problem.startswith("http://127.0.0.1:9: ")
    assert "\n" not in answer.problem
    assert "secret" not in answer.problem


def test_without_an_address_nothing_is_asked():
    asyncio.run(_submit_off())


async def _submit_off() -> None:
    answers: list[Registry] = []
    worker = RegistryWorker(lambda uid: Registry(), lambda uid, registry: answers.append(registry), lambda uid: None)
    worker.submit("u", track("", "u"))
    assert worker._queue.empty()
    worker.close()


def test_a_local_folder_of_the_test_is_all_that_was_written(uri):
    assert Path(uri.removeprefix("sqlite:///")).is_file()
