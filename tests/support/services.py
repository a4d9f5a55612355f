"""The real servers beside a cluster: S3 (versitygw), MLflow and Prometheus, each a process with a folder of its own."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from rewarm_cluster import binaries
from rewarm_cluster.api import Api
from rewarm_cluster.packages import program
from rewarm_cluster.processes import Processes, free_ports, listens

ACCESS, SECRET, REGION = "rewarm-test", "rewarm-test-secret", "us-east-1"


class S3:
    """An S3 server over a folder. `address` is one that both this machine and the pods reach."""

    def __init__(self, state: Path, address: str, processes: Processes) -> None:
        import boto3

        port = free_ports(1, address)[0]
        self.url = f"http://{address}:{port}"
        (state / "buckets").mkdir(parents=True)
        command = [str(binaries.find("versitygw")), "--access", ACCESS, "--secret", SECRET, "--region", REGION]
        command += ["--port", f"{address}:{port}", "posix", str(state / "buckets")]
        processes.start("s3", command)
        processes.wait_ready("s3", lambda: listens(port, address))
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach it: also the content of the pods' secret."""
        names = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
        return names | {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, bucket: str, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())


def start_mlflow(state: Path, address: str, processes: Processes, port: int = 0) -> str:
    """The address of an MLflow server over sqlite; on any free port unless one is given."""
    port = port or free_ports(1, address)[0]
    url = f"http://{address}:{port}"
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", address, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(state / "artifacts")]
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{address}:{port},127.0.0.1:{port}",
        "OMP_NUM_THREADS": "1",
    }
    processes.start("mlflow", command, environment=environment)
    processes.wait_ready("mlflow", lambda: _answers(f"{url}/version"), within_s=180)
    return url


class Prometheus:
    """A Prometheus that scrapes the pods as the chart's PodMonitors say: same ports, same labels.

    Debian's is built without discovery by Kubernetes: a list of pods with the same labels is served to it instead.
    """

    def __init__(
        self, state: Path, api: Api, namespaces: list[str], processes: Processes, rules: Path | None = None
    ) -> None:
        discovery = ThreadingHTTPServer(("127.0.0.1", 0), _discovery(api, namespaces))
        threading.Thread(target=discovery.serve_forever, daemon=True).start()
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}"
        state.mkdir(parents=True, exist_ok=True)
        configuration = state / "prometheus.yml"
        configuration.write_text(yaml.safe_dump(_scraping(f"http://127.0.0.1:{discovery.server_port}", rules)))
        command = [program("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={state / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        processes.start("prometheus", command)
        processes.wait_ready("prometheus", lambda: _answers(f"{self.url}/-/ready"))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of a query."""
        with urllib.request.urlopen(
            f"{self.url}/api/v1/query?{urlencode({'query': expression})}", timeout=10
        ) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        result: list[dict[str, Any]] = document["data"]["result"]
        return result

    def wait(self, expression: str, within_s: float = 60) -> list[dict[str, Any]]:
        """Its result once there is one; a scrape sends no event, so this asks again."""
        give_up = time.monotonic() + within_s
        while not (result := self.query(expression)):
            assert time.monotonic() < give_up, f"Prometheus has nothing for {expression} after {within_s} s"
            time.sleep(0.5)
        return result


def _discovery(api: Api, namespaces: list[str]) -> type[BaseHTTPRequestHandler]:
    """Answers every request with the pods' ports, labelled as Prometheus' own discovery labels them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pods = [pod for name in namespaces for pod in api.get(f"/api/v1/namespaces/{name}/pods")["items"]]
            text = json.dumps([target for pod in pods for target in _targets(pod)]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


def _targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    metadata, address = pod["metadata"], pod["status"].get("podIP")
    if not address or pod["status"].get("phase") != "Running":
        return []
    labels = {"__meta_kubernetes_namespace": metadata["namespace"], "__meta_kubernetes_pod_name": metadata["name"]}
    for name, value in metadata.get("labels", {}).items():
        labels["__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9_]", "_", name)] = value
    ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]
    return [
        {
            "targets": [f"{address}:{port['containerPort']}"],
            "labels": labels | {"__meta_kubernetes_pod_container_port_name": port.get("name", "")},
        }
        for port in ports
    ]


def _scraping(discovery: str, rules: Path | None) -> dict[str, Any]:
    def source(name: str) -> dict[str, Any]:
        return {"source_labels": [f"__meta_kubernetes_{name}"]}

    def job(name: str, keep: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        metrics = {**source("pod_container_port_name"), "regex": "metrics", "action": "keep"}
        return {
            "job_name": name,
            "http_sd_configs": [{"url": discovery, "refresh_interval": "1s"}],
            "relabel_configs": [metrics, *keep],
            **options,
        }

    trainers = [
        {**source("pod_label_rewarm_dev_role"), "regex": "trainer", "action": "keep"},
        {**source("namespace"), "target_label": "namespace"},
        {**source("pod_label_rewarm_dev_run"), "target_label": "run"},
        {**source("pod_label_batch_kubernetes_io_job_completion_index"), "target_label": "node_rank"},
        {**source("pod_name"), "target_label": "pod"},
    ]
    operators = [{**source("pod_label_app_kubernetes_io_component"), "regex": "operator", "action": "keep"}]
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [job("runs", trainers), job("operator", operators, honor_labels=True)],
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def eventually(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """The first true value of `condition`. For servers that send no events; on the API server use `Api.wait`."""
    give_up = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < give_up, f"{what}: not so after {within_s} s"
        time.sleep(0.3)
    return value
