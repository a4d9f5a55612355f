"""What the operator costs: `python benchmarks/operator/run.py [--runs 1000] [--peer] [--stored 5000] [--write]`.

A real etcd, kube-apiserver, controller-manager and scheduler on this machine; pods on kwok's fake nodes. Their programs
come from `PYTHONPATH=tools/cluster python -m rewarm_cluster tools benchmark`. In order:

1. the runs are applied at once, pods stand still: until every prepare Job exists
2. the corpora are prepared while no operator runs; then one starts: until every attempt Job exists
3. pods run and end: CPU time for each pod event, until every run has ended
4. as many runs again, with everything running
5. a restart with all of them finished: it must write nothing
6. Kubeflow's training-operator 1.8.1 on the same control plane: as many PyTorchJobs of two replicas (--peer)
7. a plain kopf operator (plain_kopf.py) under steps 1, 2, 3 and 5 (--peer)
8. so many finished runs stored in all, and a restart with them (--stored)

Writes are those of the API server's audit log. CPU time and memory are the process's own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("tools/cluster", "tests/support")]

from world import JOBS, OPERATOR, PODS, RUNS, Operator, Watched, World, operator_account  # noqa: E402

Result = dict[str, Any]


def manifest(number: int) -> dict[str, Any]:
    """A CPU run of one pod, as a user would write it."""
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    spec = {
        "baseModel": {"scratch": {"config": config}},
        "corpus": {"sources": [{"name": "new", "uri": "s3://corpora/new.jsonl"}]},
        "replay": {"ratio": 0.25, "sources": [{"name": "old", "uri": "s3://corpora/old.jsonl"}]},
        "schedule": {"peakLearningRate": 3e-4},
        "budget": {"tokens": "2M"},
        "training": {"sequenceLength": 128, "globalBatchTokens": 4096},
        "checkpoints": {"uri": f"s3://runs/run-{number}/"},
        "compute": {"gpusPerNode": 0},
    }
    metadata = {"name": f"run-{number}"}
    return {"apiVersion": "rewarm.dev/v1alpha1", "kind": "ContinualRun", "metadata": metadata, "spec": spec}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def is_attempt(job: dict[str, Any]) -> bool:
    return job["metadata"].get("labels", {}).get("rewarm.dev/role") == "trainer"


def is_preparation(job: dict[str, Any]) -> bool:
    return job["metadata"].get("labels", {}).get("rewarm.dev/role") == "prepare"


def is_prepared(job: dict[str, Any]) -> bool:
    ended = [c for c in job.get("status", {}).get("conditions", []) if c["type"] == "Complete"]
    return is_preparation(job) and any(condition["status"] == "True" for condition in ended)


def is_finished(run: dict[str, Any]) -> bool:
    found = {c["type"]: c["status"] for c in run.get("status", {}).get("conditions", [])}
    return found.get("Succeeded") in ("True", "False")


def measure(world: World, count: int) -> Result:
    """Steps 1 to 4, and with the last of them step 5."""
    account = operator_account(world)
    preparations = Watched(world, JOBS, is_preparation)
    prepared = Watched(world, JOBS, is_prepared)
    attempts = Watched(world, JOBS, is_attempt)
    finished = Watched(world, RUNS, is_finished)
    result: Result = {"runs": count}

    operator = Operator(world, account)
    operator.wait_until_leading()
    operator.wait_until_idle(2)
    result["start_cpu"], result["idle_megabytes"] = operator.cpu_seconds(), operator.resident_megabytes()
    began = time.monotonic()
    world.create(RUNS, (manifest(number) for number in range(count)))
    result["applied_seconds"] = time.monotonic() - began
    result["prepare_jobs_seconds"] = preparations.wait(count, 300) - began
    operator.wait_until_idle(3)
    result["prepare_cpu"] = operator.cpu_seconds() - result["start_cpu"]
    operator.stop()
    say(f"1. {count} prepare Jobs after {result['prepare_jobs_seconds']:.1f} s, {result['prepare_cpu']:.2f} s of CPU")

    world.pods_run()
    prepared.wait(count, 600)
    world.pods_stand_still()
    began = time.monotonic()
    operator = Operator(world, account)
    result["attempt_jobs_seconds"] = attempts.wait(count, 300) - began
    operator.wait_until_idle(2)
    # A start costs the same without runs: that was measured in step 1.
    result["attempt_cpu"] = operator.cpu_seconds() - result["start_cpu"]
    say(f"2. {count} attempt Jobs after {result['attempt_jobs_seconds']:.1f} s, {result['attempt_cpu']:.2f} s of CPU")
    result["writes_until_job"] = dict(world.writes_until_job(OPERATOR))

    operator.wait_until_idle(3)
    pods = Watched(world, PODS, lambda _: True, labelSelector="rewarm.dev/role=trainer")
    pods.wait(count, 300)
    first_cpu, first_events = operator.cpu_seconds(), pods.events
    world.pods_run()
    finished.wait(count, 900)
    operator.wait_until_idle(5)
    result["pod_events"] = pods.events - first_events
    result["pod_cpu"] = operator.cpu_seconds() - first_cpu
    result["full_megabytes"] = operator.resident_megabytes()
    say(f"3. {count} runs ended: {result['pod_events']} pod events, {result['pod_cpu']:.2f} s of CPU")

    began = time.monotonic()
    world.create(RUNS, (manifest(count + number) for number in range(count)))
    result["all_running_seconds"] = attempts.wait(2 * count, 900) - began
    finished.wait(2 * count, 900)
    result["all_finished_seconds"] = time.monotonic() - began
    operator.wait_until_idle(5)
    result["largest_megabytes"] = operator.resident_megabytes()
    operator.stop()
    say(f"4. {count} more: attempt Jobs after {result['all_running_seconds']:.1f} s, ended after "
        f"{result['all_finished_seconds']:.1f} s")  # fmt: skip

    return result | measure_restart(world, account, count)


def measure_restart(world: World, account: Path, count: int) -> Result:
    """Step 5."""
    result: Result = {}
    before = world.audit_size()
    operator = Operator(world, account)
    operator.wait_until_leading()
    operator.wait_until_idle(15)
    writes = Counter(what for what, _ in world.records(OPERATOR, before) if not what.endswith("leases"))
    result["restart_writes"] = dict(writes)
    result["restart_cpu"], result["restart_megabytes"] = operator.cpu_seconds(), operator.resident_megabytes()
    operator.stop()
    say(f"5. restart with {2 * count} finished runs: {sum(result['restart_writes'].values())} writes")
    return result


def line(what: str, measured: str, bar: str = "", *, is_met: bool | None = None) -> str:
    """A row of the table. `is_met`: of a bar."""
    return f"| {what} | {measured} | {bar} | {'' if is_met is None else '✓ met' if is_met else '✗ missed'} |"


def plain_lines(count: int, plain: Result) -> list[str]:
    """The plain kopf operator's rows."""
    written = sum(plain["writes"].values()) / count
    return [
        line(
            "plain kopf operator: every prepare Job exists, every attempt Job exists",
            f"{plain['prepare_jobs_seconds']:.1f} s, {plain['attempt_jobs_seconds']:.1f} s",
        ),
        line(
            "plain kopf operator: CPU time for each run until its attempt Job exists, writes",
            f"{1000 * plain['cpu'] / count:.1f} ms, {written:.2f}",
        ),
        line(
            "plain kopf operator: CPU time for each pod event after that",
            f"{1000 * plain['pod_cpu'] / plain['pod_events']:.2f} ms",
        ),
        line(
            f"plain kopf operator: {count:,} runs, restart with them",
            f"{plain['megabytes']:.0f} MB; {sum(plain['restart_writes'].values())} writes, "
            f"{plain['restart_cpu']:.1f} s of CPU, {plain['restart_megabytes']:.0f} MB",
        ),
    ]


def stored_lines(stored: Result) -> list[str]:
    """What many stored runs cost."""
    writes = sum(stored["writes"].values())
    return [
        line(
            f"{stored['stored']:,} finished runs stored: a list of them",
            f"{stored['list_seconds']:.2f} s, {stored['list_megabytes']:.1f} MB",
        ),
        line(
            "restart with them: leads after, settled after",
            f"{stored['leading_seconds']:.1f} s, {stored['settled_seconds']:.1f} s; {stored['cpu']:.1f} s of CPU",
        ),
        line("restart with them: writes", f"{writes}", "0 writes", is_met=writes == 0),
        line("restart with them: resident memory", f"{stored['megabytes']:.0f} MB"),
    ]


def own_lines(result: Result) -> list[str]:
    """The operator's rows, with a mark beside each bar."""
    count = result["runs"]
    writes = Counter(result["writes_until_job"])
    of_runs = sum(number for what, number in writes.items() if what != "create events") / count
    cpu = 1000 * (result["prepare_cpu"] + result["attempt_cpu"]) / count
    of_event = 1000 * result["pod_cpu"] / result["pod_events"]
    restart = sum(result["restart_writes"].values())
    attempts, largest = result["attempt_jobs_seconds"], result["largest_megabytes"]
    return [
        line(f"{count:,} runs applied at once: every prepare Job exists", f"{result['prepare_jobs_seconds']:.1f} s"),
        line(
            "corpora prepared: every attempt Job exists, the operator's own start included",
            f"{attempts:.1f} s",
            "30 s",
            is_met=attempts <= 30,
        ),
        line("CPU time for each run until its attempt Job exists", f"{cpu:.1f} ms", "4 ms", is_met=cpu <= 4),
        line(
            "CPU time for each pod event after that (everything included)",
            f"{of_event:.2f} ms",
            "1 ms",
            is_met=of_event <= 1,
        ),
        line(
            "writes for each run until its attempt Job exists",
            f"{of_runs:.2f}",
            "4 children + 2",
            is_met=of_runs <= 6,
        ),
        line("Events beside them", f"{writes['create events'] / count:.2f}"),
        line(
            f"{count:,} more with everything running: every attempt Job exists",
            f"{result['all_running_seconds']:.1f} s",
        ),
        line(
            f"resident memory: idle, {count:,} runs, {2 * count:,} runs",
            f"{result['idle_megabytes']:.0f}, {result['full_megabytes']:.0f}, {largest:.0f} MB",
            "200 MB",
            is_met=largest <= 200,
        ),
        line(
            f"restart with {2 * count:,} finished runs",
            f"{restart} writes, {result['restart_cpu']:.1f} s of CPU, {result['restart_megabytes']:.0f} MB",
            "0 writes",
            is_met=restart == 0,
        ),
    ]


def table(result: Result, peers: dict[str, Result]) -> str:
    """The page's table, in Markdown."""
    count = result["runs"]
    lines = ["| what | measured | bar | mark |", "|---|---|---|---|", *own_lines(result)]
    if peer := peers.get("training-operator"):
        lines += [
            line(
                f"training-operator 1.8.1: {peer['pods']:,} pods of {count:,} PyTorchJobs exist",
                f"{peer['seconds']:.0f} s",
            ),
            line(
                "training-operator 1.8.1: CPU time for each job, resident memory",
                f"{1000 * peer['cpu'] / count:.1f} ms, {peer['megabytes']:.0f} MB",
            ),
        ]
    if "plain kopf" in peers:
        lines += plain_lines(count, peers["plain kopf"])
    if "stored" in peers:
        lines += stored_lines(peers["stored"])
    return "\n".join(lines)


def write_page(path: Path, text: str) -> None:
    """Replace what stands between the marks of docs/operator.md."""
    page = path.read_text()
    head, _, rest = page.partition("<!-- benchmarks/operator: begin -->")
    _, _, tail = rest.partition("<!-- benchmarks/operator: end -->")
    if not rest or not tail:
        raise SystemExit(f"{path}: the marks of benchmarks/operator are missing")
    marks = "<!-- benchmarks/operator: begin -->", "<!-- benchmarks/operator: end -->"
    path.write_text(f"{head}{marks[0]}\n{text}\n{marks[1]}{tail}")


def measure_peers(runs: int) -> dict[str, Result]:
    """Each on a control plane of its own, as empty as ours was."""
    from peer import measure as measure_peer
    from plain import measure as measure_plain

    found: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="rewarm-bench-") as folder, World(Path(folder)) as world:
        kinds = {"is_preparation": is_preparation, "is_prepared": is_prepared, "is_attempt": is_attempt}
        found["plain kopf"] = measure_plain(world, runs, manifest, **kinds, is_finished=is_finished)
    with tempfile.TemporaryDirectory(prefix="rewarm-bench-") as folder, World(Path(folder)) as world:
        found["training-operator"] = measure_peer(world, runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--peer", action="store_true", help="measure training-operator and a plain kopf operator too")
    parser.add_argument("--stored", type=int, default=0, help="then store so many finished runs, and restart with them")
    parser.add_argument("--write", action="store_true", help="write the table into docs/operator.md")
    options = parser.parse_args()
    peers: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="rewarm-bench-") as folder, World(Path(folder)) as world:
        result = measure(world, options.runs)
        if options.stored:
            from stored import measure as measure_stored

            world.pods_stand_still()
            peers["stored"] = measure_stored(world, operator_account(world), options.stored)
    if options.peer:
        peers |= measure_peers(options.runs)
    text = table(result, peers)
    machine = f"{psutil.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, Kubernetes 1.36.3"
    command = f"python benchmarks/operator/run.py --runs {options.runs}{' --peer' if options.peer else ''}"
    command += f"{f' --stored {options.stored}' if options.stored else ''} --write"
    text += f"\n\nMeasured with `{command}` on {machine}, everything on the same cores."
    print(json.dumps({"result": result, "peers": peers}, indent=1), file=sys.stderr)
    print(text)
    if options.write:
        write_page(ROOT / "docs/operator.md", text)


if __name__ == "__main__":
    main()
