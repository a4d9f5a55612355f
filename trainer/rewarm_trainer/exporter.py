"""Prometheus metrics of one trainer process. The only importer of prometheus_client."""

from __future__ import annotations

from collections.abc import Mapping


class Exporter:
    """Serves /metrics on `port` (0: any free one) from a registry of its own until closed."""

    def __init__(self, port: int, *, host: str = "0.0.0.0") -> None:
        raise NotImplementedError

    @property
    def port(self) -> int:
        raise NotImplementedError

    def plan(self, *, tokens: int, steps: int, replay_ratio: float) -> None:
        """What the run is going for."""
        raise NotImplementedError

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
        """One log step; tokens are totals of the run (a resume starts where the checkpoint was)."""
        raise NotImplementedError

    def evaluation(
        self,
        losses: Mapping[str, tuple[str, float]],
        deltas: Mapping[str, float],
        *,
        seconds: float | None = None,
    ) -> None:
        """A look: set -> (role, loss in nats per token) and set -> delta; Retained sets feed `rewarm_forgetting`."""
        raise NotImplementedError

    def checkpoint(self, *, step: int, committed_at: float, seconds: float) -> None:
        """A checkpoint was committed at `committed_at` (Unix seconds); its age is computed at each scrape."""
        raise NotImplementedError

    def attempt(self, *, number: int, processes: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
