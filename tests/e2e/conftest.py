"""One cluster, one release and the servers beside it, for all end-to-end tests of a session.

Without KUBECONFIG: a cluster of one node on this machine, with both images built from this tree; it is taken down at
the end, and what it leaves behind is a failure. With KUBECONFIG: that cluster; then REWARM_E2E_OPERATOR_IMAGE and
REWARM_E2E_TRAINER_IMAGE name images that it can pull, and REWARM_E2E_ADDRESS this machine as its pods reach it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_world import CREDENTIALS, NAMESPACE, SYSTEM, ClusterWorld, Images
from rewarm_world import functions, paragraphs, write_lines
from services import S3, Prometheus, start_mlflow

from rewarm_cluster import binaries, images, packages
from rewarm_cluster.client import Client, ForeignCluster
from rewarm_cluster.errors import ClusterError
from rewarm_cluster.machine import NODE_ADDRESS
from rewarm_cluster.node import Cluster
from rewarm_cluster.processes import Processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")


def say(line: str) -> None:
    """Past pytest's capture: minutes go by in here."""
    with open("/dev/stderr", "a") as out:
        print(line, file=out, flush=True)


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def cluster(state: Path) -> Iterator[Client]:
    if given := os.environ.get("KUBECONFIG"):
        foreign = ForeignCluster(Path(given), state / "proxy")
        yield foreign
        foreign.stop()
        return
    binaries.build(binaries.SETS["e2e"], say)
    packages.ensure(packages.E2E, say)
    own = Cluster(say=say)
    if own.running():
        raise ClusterError("a cluster of this machine runs already: make cluster-down (or name it by KUBECONFIG)")
    # What a killed session left.
    own.stop(keep_images=True)
    before = machine_state()
    try:
        own.start()
        yield own
    finally:
        own.stop(keep_images=True)
    assert machine_state() == before, "the cluster left something on this machine"


def machine_state() -> dict[str, str]:
    """What a node changes on a machine."""
    commands = {
        "links": ["ip", "-brief", "link"],
        "packet filter": [packages.program("nft"), "list", "tables"],
        "mounts": ["cat", "/proc/self/mounts"],
        "cgroups": ["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", "rewarm*"],
        "kernel": ["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic"],
    }
    return {name: subprocess.run(command, capture_output=True, text=True).stdout for name, command in commands.items()}


@pytest.fixture(scope="session")
def chart_images(cluster: Client) -> Images:
    """Images of this tree in the cluster."""
    if not isinstance(cluster, Cluster):
        names = ("REWARM_E2E_OPERATOR_IMAGE", "REWARM_E2E_TRAINER_IMAGE")
        if missing := [name for name in names if not os.environ.get(name)]:
            pytest.exit(
                f"KUBECONFIG names a cluster of yours, and {' and '.join(missing)} no image it can pull: set them, "
                "or unset KUBECONFIG for a cluster of the tests' own (docs/cluster.md)",
                returncode=64,
            )
        return Images(*(os.environ[name] for name in names))
    builder = images.Builder(say)
    builder.build()
    builder.give(cluster)
    return Images(images.name("operator"), images.name("trainer"))


@pytest.fixture(scope="session")
def address() -> str:
    """This machine as pods reach it: the node's own bridge where there is one."""
    return os.environ.get("REWARM_E2E_ADDRESS", NODE_ADDRESS)


@pytest.fixture(scope="session")
def processes(state: Path) -> Iterator[Processes]:
    """The servers beside the cluster; they end with the session."""
    processes = Processes(state / "servers", detached=False)
    yield processes
    for name in reversed(processes.names()):
        processes.stop(name)


@pytest.fixture(scope="session")
def s3(cluster: Client, state: Path, address: str, processes: Processes) -> S3:
    server = S3(state / "s3", address, processes)
    for bucket in ("corpora", "checkpoints", "cache"):
        server.client.create_bucket(Bucket=bucket)
    for name, texts in (("general", paragraphs()[:300]), ("code", functions()[:300])):
        file = state / f"{name}.jsonl"
        write_lines(file, texts)
        server.client.upload_file(str(file), "corpora", file.name)
    return server


@pytest.fixture(scope="session")
def mlflow_url(cluster: Client, state: Path, address: str, processes: Processes) -> str:
    return start_mlflow(state / "mlflow", address, processes)


@pytest.fixture(scope="session")
def world(
    cluster: Client, s3: S3, mlflow_url: str, chart_images: Images, state: Path, processes: Processes
) -> ClusterWorld:
    """Everything up, the chart installed."""
    cluster.namespace(SYSTEM)
    cluster.namespace(NAMESPACE, restricted=True)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS, "namespace": NAMESPACE}}
    cluster.apply([secret | {"stringData": s3.environment}])
    prometheus = Prometheus(state / "prometheus", cluster.api, [SYSTEM, NAMESPACE], processes)
    world = ClusterWorld(cluster, s3, mlflow_url, prometheus, chart_images, state)
    world.install()
    return world
