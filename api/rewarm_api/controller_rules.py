"""Rules on what moves a mixture during training: bounds that fit, something to watch, and one mover for each number."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING, found_text
from rewarm_api.quantity import exact, parse_percent
from rewarm_api.rules import named_sources, rule


def share(percent: str) -> Fraction:
    """A percentage as a share: "5%" is 1/20."""
    return Fraction(parse_percent(percent)) / 100


def _adaptive(spec: Any) -> Any:
    return None if spec.replay is None else spec.replay.adaptive


@rule("replay.adaptive.minimum", "replay.adaptive.maximum")
def adaptive_bounds_are_in_order(spec: Any) -> Iterator[Problem]:
    adaptive = _adaptive(spec)
    if adaptive is None:
        return
    if share(adaptive.maximum) >= 1:
        yield Problem(
            "spec.replay.adaptive.maximum",
            adaptive.maximum,
            "below 100%: the corpus needs rows too",
            "lower maximum",
        )
    if share(adaptive.minimum) > share(adaptive.maximum):
        yield Problem(
            "spec.replay.adaptive.minimum",
            adaptive.minimum,
            f"minimum <= maximum ({adaptive.maximum})",
            f"use at most {adaptive.maximum}, or raise maximum",
        )


@rule("replay.ratio", "replay.adaptive.minimum", "replay.adaptive.maximum")
def ratio_starts_within_its_bounds(spec: Any) -> Iterator[Problem]:
    adaptive = _adaptive(spec)
    if adaptive is None or share(adaptive.minimum) > share(adaptive.maximum):
        return
    if not share(adaptive.minimum) <= exact(spec.replay.ratio) <= share(adaptive.maximum):
        yield Problem(
            "spec.replay.ratio",
            found_text(spec.replay.ratio),
            f"from adaptive.minimum {adaptive.minimum} to adaptive.maximum {adaptive.maximum}, since it starts there",
            "start within the bounds, or widen them",
        )


@rule("replay.sources", "replay.fromRun", "replay.ratio", "replay.adaptive")
def adaptive_has_something_to_replay(spec: Any) -> Iterator[Problem]:
    # With a ratio above 0 the same is said of the ratio.
    replay = spec.replay
    if replay is None or replay.adaptive is None or replay.ratio > 0:
        return
    if not replay.sources and "from_run" not in replay.model_fields_set:
        yield Problem(
            "spec.replay",
            "adaptive without sources",
            "exactly one of sources | fromRun, to replay from",
            "add sources to replay, or remove adaptive",
        )


@rule("replay.adaptive", "replay.sources", "replay.fromRun", "evaluation.sets", "corpus.sources")
def adaptive_has_something_to_watch(spec: Any) -> Iterator[Problem]:
    if _adaptive(spec) is None:
        return
    groups = {source.name: path.startswith("spec.replay") for path, source in named_sources(spec)}
    sets = spec.evaluation.sets
    if None in sets or any(item.role == "Retained" or (item.role is None and groups.get(item.name)) for item in sets):
        return
    if not sets and spec.replay.sources:
        return
    yield Problem(
        "spec.evaluation.sets",
        f"{NOTHING} with the role Retained",
        "at least one Retained set, whose forgetting replay.adaptive watches",
        "add a set with role: Retained",
    )


@rule("replay.adaptive", "gates.onForgetting")
def one_controller_moves_the_ratio(spec: Any) -> Iterator[Problem]:
    if _adaptive(spec) is not None and spec.gates is not None and spec.gates.on_forgetting == "RaiseReplay":
        yield Problem(
            "spec.gates.onForgetting",
            "RaiseReplay with replay.adaptive",
            "Warn | Stop: replay.adaptive moves the ratio already",
            "use Warn or Stop, or remove replay.adaptive",
        )
