"""Campaign `tracking`: a real MLflow server that is away at the start, in the middle, at the end, or back with an older
database; and a trainer that is killed meanwhile. Every point of every metric must be there exactly once in the end.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import psutil
from rewarm_world import World, read_until
from services import start_mlflow

from campaigns.tally import Tally
from campaigns.world import STEP_TOKENS, Ended, end_of, reap, steps_of
from rewarm_bench.warm import WarmProcess
from rewarm_cluster.processes import Processes, free_ports

STEPS = 40
METRICS = ("train/loss", "train/learning_rate", "train/grad_norm", "train/replay_share", "train/tokens_per_second")
PAIRS = 3
DELIVERED = "tracking: delivered"
LONG = 102_400
"""Tokens of a run whose speed is measured."""


class Server:
    """`mlflow server` over one database file, on one port for its whole life."""

    def __init__(self, state: Path) -> None:
        self.state, self.port = state, free_ports(1)[0]
        self.processes = Processes(state / "processes", detached=False)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        start_mlflow(self.state, "127.0.0.1", self.processes, self.port)

    def stop(self) -> None:
        """With SIGKILL, all of its processes: one left over would answer on its port in the next one's stead."""
        everyone = self._everyone()
        self.processes.stop("mlflow", kill=True)
        for process in everyone:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everyone, timeout=10)

    def freeze(self, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT to all of its processes: connections stand, nobody answers."""
        everyone = self._everyone()
        assert everyone, "the server has ended"
        for process in everyone:
            process.send_signal(number)

    def _everyone(self) -> list[psutil.Process]:
        pid = self.processes.pid("mlflow")
        if pid is None:
            return []
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]


class Runs:
    """Runs that are tracked by the server."""

    def __init__(self, world: World, server: Server) -> None:
        self.world, self.server = world, server

    def manifest(self, name: str, **changes: Any) -> Path:
        return self.world.manifest(name, tracking={"uri": self.server.url}, **changes)

    def start(self, name: str, **changes: Any) -> WarmProcess:
        return self.world.fork("run", self.manifest(name, **changes), "--workdir", self.world.root / name)

    def until(self, process: WarmProcess, step: int) -> None:
        read_until(process, lambda line: line.startswith(f"step {step}/"))

    def again(self, name: str) -> Ended:
        return end_of(self.world.fork("run", self.world.root / f"{name}.yaml", "--workdir", self.world.root / name))

    def delivered(self, name: str, ended: Ended) -> list[str]:
        """The run succeeded, and the same command delivers what could not be delivered at its end."""
        report = self.world.report(name)
        if ended.code or report["outcome"] != "Succeeded":
            return [f"ended with {ended.code}: {ended.said[-300:]}"]
        # Not the word of the report: a served MLflow takes no model from a local folder, whatever else it got.
        if DELIVERED not in ended.said:
            ended = self.again(name)
            if ended.code or DELIVERED not in ended.said:
                return [f"started again it did not deliver: {ended.said[-300:]}"]
        return self.exactly_once(name)

    def exactly_once(self, name: str) -> list[str]:
        """Every point of every metric, against the log of the run."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.server.url)
        run_id = self.world.report(name)["tracking"]["run_id"]
        wanted = [step * STEP_TOKENS for step in sorted(steps_of(self.world.root / name))]
        problems = []
        for metric in METRICS:
            found = sorted(point.step for point in client.get_metric_history(run_id, metric))
            if found != wanted:
                missing, more = len(set(wanted) - set(found)), len(found) - len(set(found))
                problems.append(f"{metric}: {missing} of {len(wanted)} points are missing, {more} are there twice")
        return problems


def away_at_the_start(runs: Runs) -> list[str]:
    process = runs.start("start")
    runs.until(process, 5)
    runs.server.start()
    return runs.delivered("start", end_of(process))


def away_in_the_middle(runs: Runs) -> list[str]:
    process = runs.start("middle")
    runs.until(process, 5)
    runs.server.freeze(signal.SIGSTOP)
    runs.until(process, 35)
    runs.server.freeze(signal.SIGCONT)
    return runs.delivered("middle", end_of(process))


def away_at_the_end(runs: Runs) -> list[str]:
    process = runs.start("end")
    runs.until(process, 35)
    runs.server.stop()
    ended = end_of(process)
    runs.server.start()
    return runs.delivered("end", ended)


def killed_while_it_was_away(runs: Runs) -> list[str]:
    process = runs.start("killed")
    runs.until(process, 5)
    runs.server.freeze(signal.SIGSTOP)
    runs.until(process, 25)
    reap([process])
    runs.server.freeze(signal.SIGCONT)
    return runs.delivered("killed", runs.again("killed"))


def back_with_an_older_database(runs: Runs) -> list[str]:
    """Backed up at the first commit, put back after the trainer was stopped and had delivered all it had."""
    process = runs.start("older")
    runs.until(process, 8)
    process.send_signal(signal.SIGTERM)
    end_of(process)
    runs.server.stop()
    database = runs.server.state / "mlflow.db"
    shutil.copy(database, runs.server.state / "backup.db")
    runs.server.start()
    process = runs.world.fork("run", runs.world.root / "older.yaml", "--workdir", runs.world.root / "older")
    runs.until(process, 30)
    process.send_signal(signal.SIGTERM)
    end_of(process)
    runs.server.stop()
    for part in runs.server.state.glob("mlflow.db-*"):
        part.unlink()
    shutil.copy(runs.server.state / "backup.db", database)
    runs.server.start()
    return runs.delivered("older", runs.again("older"))


CASES = {
    "away at the start": away_at_the_start,
    "away in the middle": away_in_the_middle,
    "away at the end": away_at_the_end,
    "trainer killed meanwhile": killed_while_it_was_away,
    "back with an older database": back_with_an_older_database,
}


def speeds(runs: Runs) -> str:
    """Tokens per second with MLflow frozen against MLflow there, pair by pair in the same minute."""
    ratios = []
    for pair in range(PAIRS):
        measured = {}
        for state in ("there", "away"):
            name = f"speed-{pair}-{state}"
            process = runs.start(name, budget={"tokens": LONG}, checkpoints__every="50%", evaluation__every="50%")
            runs.until(process, 5)
            if state == "away":
                runs.server.freeze(signal.SIGSTOP)
            runs.until(process, LONG // STEP_TOKENS - 10)
            runs.server.freeze(signal.SIGCONT)
            end_of(process)
            report = json.loads((runs.world.root / name / "report.json").read_text())
            measured[state] = report["throughput"]["tokens_per_second"]
        ratios.append(measured["away"] / measured["there"])
    spread = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
    return (
        f"Speed with MLflow away over speed with it: median {statistics.median(ratios):.3f} of {PAIRS} pairs ({spread})"
    )


def campaign(world: World, *, count: int = len(CASES)) -> Tally:
    """The first `count` cases, and the price in speed."""
    tally = Tally("tracking: MLflow away")
    server = Server(world.root / "mlflow")
    runs = Runs(world, server)
    try:
        for kind, case in list(CASES.items())[:count]:
            tally.struck(kind, case(runs))
        tally.notes.append(speeds(runs))
    finally:
        server.stop()
    return tally
