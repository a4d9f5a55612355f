"""The runs that campaigns disturb: a tiny world of real text, real `rewarm run` processes, and the judge of their ends.

A campaign compares with a *twin*: the same manifest, never disturbed. Processes are forked warm (rewarm_bench.warm), so
that a start costs seconds; the signals that reach them are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_world import World, functions, paragraphs, write_lines

from rewarm_bench.product import ROOT
from rewarm_bench.warm import WarmProcess
from rewarm_trainer.checkpoint import MARKER, Checkpoints, folder_name
from rewarm_trainer.launch import free_port
from rewarm_trainer.storage import LocalStorage

PATIENCE = float(os.environ.get("REWARM_TEST_PATIENCE", "300"))
"""Seconds that a process may take, on a machine that others use too."""
PACKAGES = ("api", "trainer", "cli", "benchmarks", "tests/support", "tools/cluster")
STEP_TOKENS = 256
SEQUENCE = 32


def make_world(root: Path) -> World:
    """A folder with two corpora, and the environment of its commands."""
    write_lines(root / "data" / "general.jsonl", paragraphs()[:300])
    write_lines(root / "data" / "code.jsonl", functions()[:300])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in PACKAGES),
        "XDG_CACHE_HOME": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return World(root, environment)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it) and what it said."""

    code: int
    said: str


def end_of(process: WarmProcess, patience: float = PATIENCE) -> Ended:
    """Wait for the end; one that does not come is a fault of the product, and the process is killed."""
    try:
        out, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate(timeout=30)
        return Ended(124, f"{err}\nkilled: no end within {patience:.0f} s")
    finally:
        for stream in (process.stdout, process.stderr):
            stream.close()
    assert process.returncode is not None
    return Ended(process.returncode, err + out)


def steps_of(folder: Path) -> dict[int, tuple[float, dict[str, int]]]:
    """Loss and cumulative rows by source of every logged update; of a recomputed one, the last."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["rows"]) for line in lines if "event" not in line}


def events_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Events of one kind, whole lines only: the last one may have been torn."""
    found = []
    for line in (folder / "log.jsonl").read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("event") == kind:
            found.append(record)
    return found


def checkpoints_of(folder: Path) -> Checkpoints:
    """The checkpoints of a local work folder (or of the folder itself, of a bucket kept in one)."""
    return Checkpoints(LocalStorage(folder / "checkpoints"), folder / ".campaign" / "staging")


def committed(folder: Path) -> list[int]:
    """Steps with a marker."""
    return sorted(int(path.parent.name[5:]) for path in (folder / "checkpoints").glob(f"step-*/{MARKER}"))


def broken(folder: Path) -> list[str]:
    """Why each committed checkpoint that is not whole is not believed."""
    return [entry.reason for entry in checkpoints_of(folder).audit(verify=True) if entry.committed and entry.reason]


@dataclass(frozen=True)
class Twin:
    """The undisturbed run: how it ended, to compare with."""

    folder: Path
    steps: int

    @property
    def tokens(self) -> int:
        return self.steps * STEP_TOKENS

    def weights(self, folder: Path) -> bytes:
        return (folder / "checkpoints" / folder_name(self.steps) / "model.safetensors").read_bytes()


@dataclass(frozen=True)
class Difference:
    """What a finished run has that its twin has not."""

    problems: list[str]
    doubled: int


def compare(folder: Path, twin: Twin) -> Difference:
    """Weights and moments bit for bit, every step's rows and loss, the sums of the report."""
    problems = []
    for file in ("model.safetensors", "optimizer.safetensors"):
        own, other = (path / "checkpoints" / folder_name(twin.steps) / file for path in (folder, twin.folder))
        if not own.exists() or own.read_bytes() != other.read_bytes():
            problems.append(f"{file} is not that of the undisturbed run")
    mine, wanted = steps_of(folder), steps_of(twin.folder)
    if mine != wanted:
        differing = sorted(step for step in mine.keys() | wanted.keys() if mine.get(step) != wanted.get(step))
        problems.append(f"rows or loss of {len(differing)} steps differ, the first is {differing[0]}")
    report = json.loads((folder / "report.json").read_text())
    rows = sum(mine[max(mine)][1].values())
    trained = report["tokens"]["trained"]
    if (report["outcome"], trained, rows * SEQUENCE) != ("Succeeded", twin.tokens, twin.tokens):
        problems.append(f"{report['outcome']} with {trained} tokens and {rows} rows, expected {twin.tokens} tokens")
    doubled = max(0, trained - twin.tokens, rows * SEQUENCE - twin.tokens)
    return Difference(problems, doubled)


def undisturbed(world: World, manifest: Path, name: str = "twin", processes: int = 1) -> Twin:
    """Run a manifest in peace."""
    folder = world.root / name
    if processes == 1:
        ended = end_of(world.fork("run", manifest, "--workdir", folder))
    else:
        prepared(world, manifest, folder)
        ended = end_of(start_ranks(world, folder, processes)[0])
    if ended.code:
        raise SystemExit(f"the undisturbed run ended with {ended.code}:\n{ended.said}")
    return Twin(folder, max(steps_of(folder)))


def prepared(world: World, manifest: Path, folder: Path) -> None:
    """A work folder as preparation leaves it: killed at the first moment of its training."""
    process = world.fork("run", manifest, "--workdir", folder, REWARM_FAULT_POINT="claim.before:1")
    ended = end_of(process)
    if ended.code != -9:
        raise SystemExit(f"preparing ended with {ended.code}:\n{ended.said}")


def start_ranks(world: World, folder: Path, processes: int, faults: dict[int, str] | None = None) -> list[WarmProcess]:
    """The training processes of a prepared folder, as torchrun starts them. `faults`: a fault point by rank."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    cache = world.root / "cache" / "rewarm"
    arguments = ("--workdir", folder, "--cache", cache)
    ranks = []
    for rank in range(processes):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        if faults and rank in faults:
            own["REWARM_FAULT_POINT"] = faults[rank]
        ranks.append(world.fork(*arguments, module="rewarm_trainer.worker", **own))
    return ranks


def await_frozen(process: WarmProcess, patience: float = PATIENCE) -> bool:
    """Until a fault point has stopped the process; False when it ended before. Stopping sends no event to others."""
    give_up = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < give_up:
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.01)
    return False


def reap(processes: Sequence[WarmProcess]) -> None:
    """Kill what still runs, as a launcher does with the ranks that a dead one leaves behind."""
    for process in processes:
        process.kill()
        process.wait(60)
        for stream in (process.stdout, process.stderr):
            stream.close()


def forget_run(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A small file system of its own (tmpfs), where this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "rewarm-campaign", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
