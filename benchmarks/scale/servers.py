"""What the servers beside the product carry: a real MLflow and a real Prometheus, under the trainer's own load."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rewarm_cluster.packages import program
from rewarm_cluster.processes import Processes, free_ports

CLIENTS, WARM_SECONDS, SECONDS = 4, 3.0, 15.0
FEW, MANY, SCRAPES = 20, 1_000, 4


def count_series(text: str) -> int:
    """Samples of an exposition."""
    return sum(bool(line) and not line.startswith("#") for line in text.splitlines())


@contextlib.contextmanager
def _processes() -> Iterator[tuple[Path, Processes]]:
    with tempfile.TemporaryDirectory(prefix="rewarm-scale-") as place:
        started = Processes(Path(place), detached=False)
        try:
            yield Path(place), started
        finally:
            for name in started.names():
                started.stop(name)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def _answers(url: str) -> bool:
    try:
        return bool(_get(url))
    except OSError:
        return False


def mlflow_batches_a_second(metrics: int) -> float:
    """Batches of so many metrics that an MLflow server of one worker over SQLite takes, from four runs at once."""
    with _processes() as (state, processes):
        port = free_ports(1)[0]
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{state}/mlflow.db", "--artifacts-destination", f"{state}/files"]
        settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        processes.start("mlflow", command, environment=settings)
        processes.wait_ready("mlflow", lambda: _answers(f"http://127.0.0.1:{port}/version"), within_s=180)
        taken = [_Tracked(port, metrics) for _ in range(CLIENTS)]
        for each in taken:
            each.start()
        time.sleep(WARM_SECONDS)
        before, began = sum(each.batches for each in taken), time.monotonic()
        time.sleep(SECONDS)
        found = (sum(each.batches for each in taken) - before) / (time.monotonic() - began)
        for each in taken:
            each.ended.set()
        for each in taken:
            each.join()
        if errors := [each.error for each in taken if each.error]:
            raise RuntimeError(f"MLflow refused a batch: {errors[0]}")
        return found


class _Tracked(threading.Thread):
    """A run that logs one batch after another over one connection."""

    def __init__(self, port: int, metrics: int) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        made = self._post("create", {"experiment_id": "0", "start_time": 0})
        self.identity, self.metrics = made["run"]["info"]["run_id"], metrics
        self.batches, self.error, self.ended = 0, "", threading.Event()

    def _post(self, what: str, body: object) -> dict[str, dict[str, dict[str, str]]]:
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", f"/api/2.0/mlflow/runs/{what}", json.dumps(body), headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise OSError(f"{answer.status} {said[:200]!r}")
        return dict(json.loads(said))

    def run(self) -> None:
        while not self.ended.is_set():
            at = {"timestamp": int(time.time() * 1000), "step": self.batches}
            values = [{"key": f"loss/{number}", "value": 1.0, **at} for number in range(self.metrics)]
            try:
                self._post("log-batch", {"run_id": self.identity, "metrics": values})
            except OSError as error:
                self.error = str(error)
                return
            self.batches += 1


def prometheus_bytes_a_series(exposition: str) -> float:
    """Resident memory for each series more, while it scrapes few and then many targets that expose this text."""
    few, many = _prometheus(exposition, FEW), _prometheus(exposition, MANY)
    return (many[0] - few[0]) / (many[1] - few[1])


def _prometheus(exposition: str, targets: int) -> tuple[float, float]:
    """(resident bytes, series in its head) after a few scrapes of so many targets."""
    text = exposition.encode()

    class Exposing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            """Nothing: a thousand targets are many lines."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Exposing) as server, _processes() as (state, processes):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        listed = [{"targets": [address], "labels": {"namespace": "ml", "pod": f"run-{n}-0"}} for n in range(targets)]
        scraping = {"job_name": "rewarm", "static_configs": listed}
        settings = {"global": {"scrape_interval": "10s", "scrape_timeout": "10s"}, "scrape_configs": [scraping]}
        (state / "prometheus.yml").write_text(json.dumps(settings))
        url = f"http://127.0.0.1:{free_ports(1)[0]}"
        command = [program("prometheus"), f"--config.file={state}/prometheus.yml", "--log.level=warn"]
        command += [f"--storage.tsdb.path={state}/data", f"--web.listen-address={url[7:]}"]
        processes.start("prometheus", command)
        processes.wait_ready("prometheus", lambda: _answers(f"{url}/-/ready"))
        wanted = SCRAPES * targets * count_series(exposition)
        deadline = time.monotonic() + 300
        while _value(url, "prometheus_tsdb_head_samples_appended_total") < wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus took in fewer than {wanted:,} samples in 300 s")
            time.sleep(1)
        found = _value(url, "process_resident_memory_bytes"), _value(url, "prometheus_tsdb_head_series")
        server.shutdown()
        return found


def _value(url: str, name: str) -> float:
    """One of Prometheus' own numbers; summed where it has labels."""
    lines = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", _get(f"{url}/metrics"), re.MULTILINE)
    return sum(map(float, lines))
