"""Finished runs that pile up: what a list of them costs, and a restart of the operator with all of them.

Runs beyond those that were really run are copies of one of them, status and all, under names of their own.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from world import OPERATOR, RUNS, Operator, World

CLIENTS_KEEP = ("labels", "annotations", "finalizers")


def fill(world: World, total: int) -> int:
    """Copies until `total` runs are stored; how many there were before."""
    items = world.cluster.api.call("GET", RUNS)[1]["items"]
    pattern = items[0]
    kept = {key: pattern["metadata"][key] for key in CLIENTS_KEEP if pattern["metadata"].get(key)}
    names = [f"stored-{number}" for number in range(len(items), total)]
    head = {"apiVersion": pattern["apiVersion"], "kind": pattern["kind"], "spec": pattern["spec"]}
    world.create(RUNS, ({**head, "metadata": {**kept, "name": name}} for name in names))
    status = {**pattern["status"], "observedGeneration": 1}
    world.each(names, lambda name: world.cluster.api.call("PATCH", f"{RUNS}/{name}/status", {"status": status}))
    return len(items)


def measure(world: World, account: Path, total: int) -> dict[str, Any]:
    """The operator is not running, and pods stand still."""
    before = fill(world, total)
    began = time.monotonic()
    answer = world.cluster.api.call("GET", f"{RUNS}?resourceVersion=0")[1]
    result: dict[str, Any] = {"stored": total, "really_run": before, "list_seconds": time.monotonic() - began}
    result["list_megabytes"] = len(json.dumps(answer, separators=(",", ":"))) / 1e6
    since = world.audit_size()
    began = time.monotonic()
    operator = Operator(world, account)
    leads = operator.wait_until_leading(60)
    operator.wait_until_idle(15)
    # The last 15 seconds were the waiting itself.
    result["settled_seconds"] = time.monotonic() - began - 15
    result["leading_seconds"] = leads - began
    writes = Counter(what for what, _ in world.records(OPERATOR, since) if not what.endswith("leases"))
    result |= {"writes": dict(writes), "cpu": operator.cpu_seconds(), "megabytes": operator.resident_megabytes()}
    operator.stop()
    return result
