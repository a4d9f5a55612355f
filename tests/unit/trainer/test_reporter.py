"""The heartbeat, against a real HTTPS server."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rewarm_api.reported import read_report
from rewarm_trainer.reporter import Reporter, Server, moment, read_last
from rewarm_trainer.told import Told

WAIT = 30


@dataclass
class Operator:
    """Takes reports over TLS. `answers`: status codes of the next POSTs, 204 when there is none."""

    url: str = ""
    authority: str = ""
    got: queue.Queue[tuple[str, dict[str, Any]]] = field(default_factory=queue.Queue)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    def next(self) -> tuple[str, dict[str, Any]]:
        return self.got.get(timeout=WAIT)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("making a certificate needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, crt = folder / "tls.key", folder / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(crt), "-days", "2", "-subj", "/CN=operator"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return crt, key


@pytest.fixture
def operator(certificate: tuple[Path, Path]) -> Iterator[Operator]:
    told = Operator(authority=str(certificate[0]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            code, headers = told.answers.pop(0) if told.answers else (204, {})
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            told.got.put((self.headers["Authorization"], json.loads(body)))

        def log_message(self, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told.url = f"https://127.0.0.1:{server.server_port}/v1/progress/team/run"
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def test_it_tells_at_once_what_is_new_with_the_token_of_the_moment(
    operator: Operator, token: Path, tmp_path: Path
) -> None:
    told = Told(None, 0.25)
    reporter = Reporter(Server(operator.url, operator.authority, str(token)), tmp_path, told.fields, every_seconds=600)
    who, body = operator.next()
    assert who == "Bearer first"
    assert body["rewarm"]["phase"]["activity"] == "Starting"
    token.write_text("second")
    told.record({"event": "warning", "message": "a checkpoint was passed over"}, moment())
    reporter.now("Baseline")
    who, body = operator.next()
    assert who == "Bearer second"
    assert body["rewarm"]["phase"]["activity"] == "Baseline"
    assert body["rewarm"]["warnings"] == ["a checkpoint was passed over"]
    assert body["rewarm"]["phase"]["deadline"] > moment()
    reporter.close()
    operator.next()
    last = read_last(tmp_path)
    assert last is not None
    assert last.warnings == ["a checkpoint was passed over"]


def test_it_beats_by_itself(operator: Operator, tmp_path: Path) -> None:
    reporter = Reporter(Server(operator.url, operator.authority, ""), tmp_path, every_seconds=0.01)
    assert [operator.next()[1]["rewarm"]["phase"]["activity"] for _ in range(3)] == ["Starting"] * 3
    reporter.close()


def test_a_standby_is_asked_again_after_the_pause_it_wants(operator: Operator, tmp_path: Path) -> None:
    operator.answers = [(503, {"Retry-After": "1"}), (401, {})]
    reporter = Reporter(Server(operator.url, operator.authority, ""), tmp_path, every_seconds=0.01)
    for _ in range(4):
        operator.next()
    reporter.close()


def test_kubeflows_part_says_the_same(operator: Operator, tmp_path: Path) -> None:
    fields = {"learning_rate": 0.001}
    reporter = Reporter(Server(operator.url, operator.authority, ""), tmp_path, lambda: fields)
    _, body = operator.next()
    reporter.close()
    assert body["trainerStatus"]["metrics"] == [{"name": "learning_rate", "value": "0.001"}]
    without = json.dumps({"trainerStatus": body["trainerStatus"]}).encode()
    assert read_report(without).learning_rate == read_report(json.dumps(body).encode()).learning_rate == 0.001


@pytest.mark.parametrize("fault", ["nobody", "authority", "fields"])
def test_nothing_stops_training(
    operator: Operator, tmp_path: Path, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    def broken() -> dict[str, Any]:
        return {"learning_rate": "fast"} if fault == "fields" else {}

    url = "https://127.0.0.1:9/" if fault == "nobody" else operator.url
    authority = str(tmp_path / "none") if fault == "authority" else operator.authority
    reporter = Reporter(Server(url, authority, ""), tmp_path, broken)
    reporter.now("Training")
    reporter.close()
    assert "training goes on" in capfd.readouterr().err


def test_the_wrapper_is_silent_once_the_worker_reports(operator: Operator, tmp_path: Path) -> None:
    taken_over = tmp_path / "worker-reports"
    taken_over.touch()
    reporter = Reporter(Server(operator.url, operator.authority, ""), tmp_path, until=taken_over)
    reporter.close()
    assert operator.got.empty()
    assert read_last(tmp_path) is None


def test_reporting_is_off_without_an_address() -> None:
    assert Server.from_environment({}) is None
