"""The whole product on the cluster of one node: an S3 server with real text, the chart, and a run on two nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from . import binaries
from .errors import ClusterError
from .machine import NODE_ADDRESS
from .node import Cluster
from .processes import listens

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parents[1]
PORT, ACCESS, SECRET = 7070, "rewarm", "rewarm-secret"
PARAGRAPH = 200


def start(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Install and apply everything; again and again without harm."""
    _start_storage(cluster)
    say(f"example: S3 at http://{NODE_ADDRESS}:{PORT}, its buckets are folders of {_buckets(cluster)}")
    environment = {
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://{NODE_ADDRESS}:{PORT}",
        "AWS_REGION": "us-east-1",
    }
    metadata = {"name": "storage", "namespace": "default"}
    cluster.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": environment}])
    say("example: helm upgrade --install rewarm charts/rewarm -f tools/cluster/values.yaml")
    helm = [str(binaries.find("helm")), "--kubeconfig", str(cluster.kubeconfig), "upgrade", "--install", "rewarm"]
    helm += [str(ROOT / "charts/rewarm"), "-f", str(HERE / "values.yaml"), "--wait", "--timeout", "300s"]
    result = subprocess.run(helm, capture_output=True, text=True)
    if result.returncode:
        raise ClusterError(f"helm failed (are the images there? make cluster-images): {result.stderr.strip()}")
    say("example: kubectl apply -f tools/cluster/example.yaml")
    cluster.apply((HERE / "example.yaml").read_text())
    say("example: it trains. Next:")
    say(f"  export KUBECONFIG={cluster.kubeconfig} PATH={binaries.find('kubectl').parent}:$PWD/.venv/bin:$PATH")
    say("  kubectl get crun -w")
    say("  kubectl rewarm status example")


def _buckets(cluster: Cluster) -> Path:
    return cluster.state / "buckets"


def _start_storage(cluster: Cluster) -> None:
    corpora = _buckets(cluster) / "corpora"
    for folder in (corpora, _buckets(cluster) / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("prose", _prose()), ("code", _code())):
        (corpora / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    if not cluster.processes.running("s3"):
        command = [str(binaries.find("versitygw")), "--access", ACCESS, "--secret", SECRET]
        command += ["--port", f"{NODE_ADDRESS}:{PORT}", "posix", str(_buckets(cluster))]
        cluster.processes.start("s3", command)
        cluster.processes.wait_ready("s3", lambda: listens(PORT, NODE_ADDRESS))


def _prose() -> list[str]:
    """English that every Python ships."""
    from pydoc_data.topics import topics

    return [part for text in topics.values() for part in text.split("\n\n") if len(part) > PARAGRAPH]


def _code() -> list[str]:
    """Python that every Python ships."""
    folder = Path(json.__file__).parents[1]
    texts = [path.read_text(errors="replace") for path in sorted(folder.glob("[a-h]*.py"))]
    return [part for text in texts for part in text.split("\n\n\n") if len(part) > PARAGRAPH]
