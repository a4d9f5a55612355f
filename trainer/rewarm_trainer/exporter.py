"""Prometheus metrics of one trainer process. The only importer of prometheus_client.

Decides names, units and labels; never a number. Labels are bounded: names of sets and sources, roles, activities;
never a step, a checkpoint, a pod or an attempt. Nothing here waits or does I/O: a scrape reads what was set last.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rewarm_api.errors import DependencyError

RETAINED = "Retained"


class _Totals(Collector):
    """Counters whose totals come from the run's state, so that a resumed run goes on where its checkpoint was."""

    def __init__(self) -> None:
        self.tokens = 0
        self.steps = 0
        self.tokens_by_source: dict[str, int] = {}
        self.passed_over = 0

    def collect(self) -> list[CounterMetricFamily]:
        tokens = CounterMetricFamily("rewarm_training_tokens", "Tokens trained since the run began.", self.tokens)
        steps = CounterMetricFamily("rewarm_training_steps", "Optimizer updates since the run began.", self.steps)
        by_source = CounterMetricFamily(
            "rewarm_source_tokens", "Tokens trained from each source since the run began.", labels=["source"]
        )
        for source, count in sorted(self.tokens_by_source.items()):
            by_source.add_metric([source], count)
        passed_over = CounterMetricFamily(
            "rewarm_checkpoint_fallbacks", "Committed checkpoints that were not whole when a resume came to them."
        )
        passed_over.add_metric([], self.passed_over)
        return [tokens, steps, by_source, passed_over]


class Exporter:
    """Serves /metrics on `port` (0: any free one) from a registry of its own, until closed.

    Raises DependencyError (75) when the port is taken.
    """

    def __init__(self, port: int, *, host: str = "0.0.0.0") -> None:
        self._registry = CollectorRegistry()
        self._totals = _Totals()
        self._registry.register(self._totals)
        self._make_gauges()
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise DependencyError(
                f"metrics port {port}: cannot listen on {host} ({error.strerror or error}), expected a free port; "
                "choose another with --metrics-port, or leave it out"
            ) from error

    def _make_gauges(self) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"rewarm_{name}", text, labels, registry=self._registry)

        self._target_tokens = gauge("training_target_tokens", "Tokens that the run is planned to train.")
        self._target_steps = gauge("training_target_steps", "Optimizer updates that the run is planned to make.")
        self._loss = gauge("training_loss", "Training loss of the newest log step, nats per token.")
        self._source_loss = gauge("source_loss", "Training loss by source, nats per token.", "source")
        self._learning_rate = gauge("learning_rate", "Learning rate of the newest update.")
        self._gradient_norm = gauge("gradient_norm", "Norm of the gradient before clipping.")
        self._speed = gauge("tokens_per_second", "Training speed over the newest log interval, all processes.")
        self._share = gauge("replay_share", "Share of all training rows so far that were replay.")
        self._ratio = gauge("replay_ratio_requested", "Share of training rows that replay was asked to have.")
        self._eval_loss = gauge("eval_loss", "Loss on an evaluation set, nats per token.", "set", "role")
        self._eval_delta = gauge(
            "eval_delta", "Loss minus that of the untouched base on the same documents, nats per token.", "set", "role"
        )
        self._forgetting = gauge(
            "forgetting", "Loss gained on a Retained set since the base, nats per token; above zero is worse.", "set"
        )
        self._committed = gauge("checkpoint_committed_timestamp_seconds", "Unix time of the newest commit.")
        self._checkpoint_step = gauge(
            "checkpoint_step", "Number of the last update in the newest committed checkpoint."
        )
        self._checkpoint_duration = gauge("checkpoint_duration_seconds", "Time that the newest commit took.")
        self._look_duration = gauge("eval_duration_seconds", "Time that the newest look took.")
        self._age = gauge("checkpoint_age_seconds", "Time since the newest commit, or since the process began.")
        self._duration = gauge("activity_seconds", "Time spent so far, by activity.", "activity")
        self._attempt = gauge("attempt", "Number of the attempt that is training.")
        self._processes = gauge("processes", "Training processes of this attempt.")
        for unknown in (
            self._loss,
            self._learning_rate,
            self._gradient_norm,
            self._speed,
            self._share,
            self._committed,
        ):
            unknown.set(math.nan)  # zero would be a statement
        self._count_age_from(time.time())

    def _count_age_from(self, moment: float) -> None:
        self._age.set_function(lambda: max(0.0, time.time() - moment))

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def passed_over(self, total: int) -> None:
        """Committed checkpoints that a resume of this run had to pass over so far."""
        self._totals.passed_over = total

    def plan(self, *, tokens: int, steps: int, replay_ratio: float) -> None:
        """What the run is going for."""
        self._target_tokens.set(tokens)
        self._target_steps.set(steps)
        self._ratio.set(replay_ratio)

    def attempt(self, *, number: int, processes: int) -> None:
        """Which attempt is training, and with how many processes."""
        self._attempt.set(number)
        self._processes.set(processes)

    def step(
        self,
        *,
        step: int,
        tokens: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        replay_share: float,
        tokens_per_second: float,
        losses: Mapping[str, float],
        tokens_by_source: Mapping[str, int],
    ) -> None:
        """One log step. tokens, step, tokens_by_source: totals of the run; losses: by source, nats per token."""
        self._totals.steps = step
        self._totals.tokens = tokens
        self._totals.tokens_by_source = dict(tokens_by_source)
        self._loss.set(loss)
        self._learning_rate.set(learning_rate)
        self._gradient_norm.set(gradient_norm)
        self._share.set(replay_share)
        self._speed.set(tokens_per_second)
        for source, value in losses.items():
            self._source_loss.labels(source).set(value)

    def evaluation(
        self, losses: Mapping[str, tuple[str, float]], deltas: Mapping[str, float], *, seconds: float | None = None
    ) -> None:
        """A look: set -> (role, loss) and set -> delta, nats per token; Retained sets feed `rewarm_forgetting`."""
        if seconds is not None:
            self._look_duration.set(seconds)
        for name, (role, loss) in losses.items():
            self._eval_loss.labels(name, role).set(loss)
            if name in deltas:
                self._eval_delta.labels(name, role).set(deltas[name])
                if role == RETAINED:
                    self._forgetting.labels(name).set(deltas[name])

    def checkpoint(self, *, step: int, committed_at: float, seconds: float) -> None:
        """The state after update `step` was committed at `committed_at` (Unix seconds); its age grows by itself."""
        self._checkpoint_step.set(step)
        self._checkpoint_duration.set(seconds)
        self._committed.set(committed_at)
        self._count_age_from(committed_at)

    def seconds(self, by_activity: Mapping[str, float]) -> None:
        """Time spent so far in prepare, baseline, train, evaluate, checkpoint."""
        for activity, value in by_activity.items():
            self._duration.labels(activity).set(value)

    @property
    def registry(self) -> CollectorRegistry:
        return self._registry

    def close(self) -> None:
        """Stop serving. In a pod, first keep it up for two scrape intervals."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ProcessExporter:
    """Speed and memory of one process, for the first rank of each node of a run."""

    def __init__(self, registry: CollectorRegistry, world: int) -> None:
        self._world = world
        self._speed = Gauge(
            "rewarm_process_tokens_per_second",
            "Training speed of this process over the newest log interval.",
            registry=registry,
        )
        self._speed.set(math.nan)
        resident = Gauge("rewarm_process_resident_memory_bytes", "Memory of this process.", registry=registry)
        resident.set_function(resident_bytes)
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            device = Gauge("rewarm_process_device_memory_bytes", "Accelerator memory it reserved.", registry=registry)
            device.set_function(torch.cuda.memory_reserved)

    @staticmethod
    def within(exporter: Exporter, world: int) -> ProcessExporter:
        """Beside the metrics of the whole run."""
        return ProcessExporter(exporter.registry, world)

    @staticmethod
    def serve(port: int, world: int) -> ProcessExporter:
        """On a port of its own, for as long as the process lives. DependencyError (75) when the port is taken."""
        registry = CollectorRegistry()
        try:
            start_http_server(port, addr="0.0.0.0", registry=registry)
        except OSError as error:
            raise DependencyError(
                f"metrics port {port}: cannot listen ({error.strerror or error}), expected a free port; set "
                "REWARM_METRICS_PORT to another"
            ) from error
        return ProcessExporter(registry, world)

    def step(self, tokens_per_second: float) -> None:
        """`tokens_per_second`: of all processes together, as this one saw it."""
        self._speed.set(tokens_per_second / self._world)


def resident_bytes() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
