"""Rules on what moves a mixture during training: bounds that fit, something to watch, and one mover for each number."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rewarm_api.corpus import CitedRatio
from rewarm_api.errors import Problem
from rewarm_api.messages import NOTHING, found_text
from rewarm_api.quantity import exact, parse_percent
from rewarm_api.rules import exactly_one, named_sources, rule


def share(percent: str) -> Fraction:
    """A percentage as a share: "5%" is 1/20."""
    return Fraction(parse_percent(percent)) / 100


def is_number(ratio: Any) -> bool:
    """Whether a ratio is written, not taken from a study."""
    return not isinstance(ratio, CitedRatio)


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
    if adaptive is None or share(adaptive.minimum) > share(adaptive.maximum) or not is_number(spec.replay.ratio):
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
    if replay is None or replay.adaptive is None or not is_number(replay.ratio) or replay.ratio > 0:
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


@rule("mixture")
def mixture_is_one(spec: Any) -> Iterator[Problem]:
    if spec.mixture is not None:
        yield from exactly_one("spec.mixture", spec.mixture, "domain_discrepancy", "skill_graph")


@rule("mixture.domainDiscrepancy.teacher", "corpus.sources")
def teacher_is_one(spec: Any) -> Iterator[Problem]:
    discrepancy = spec.mixture and spec.mixture.domain_discrepancy
    if discrepancy is not None and discrepancy.teacher is not None:
        path = "spec.mixture.domainDiscrepancy.teacher"
        yield from exactly_one(path, discrepancy.teacher, "hugging_face", "s3", "file")
        if len(spec.corpus.sources) < 2:
            yield Problem(path, "one source in the corpus", "two sources or more, which it weighs", "remove teacher")


@rule("phases", "replay.adaptive.minimum", "replay.adaptive.maximum")
def phases_keep_the_bounds_of_the_ratio(spec: Any) -> Iterator[Problem]:
    adaptive = _adaptive(spec)
    for index, phase in enumerate(spec.phases or [] if adaptive is not None else []):
        ratio = phase and phase.replay_ratio
        if ratio is not None and not share(adaptive.minimum) <= exact(ratio) <= share(adaptive.maximum):
            yield Problem(
                f"spec.phases[{index}].replayRatio",
                found_text(ratio),
                f"from adaptive.minimum {adaptive.minimum} to adaptive.maximum {adaptive.maximum}",
                "stay within the bounds, or widen them",
            )


@rule("phases", "mixture", "corpus.sources", "replay.sources")
def phases_leave_weights_to_the_mixture(spec: Any) -> Iterator[Problem]:
    weighed = {source.name for _, sources in _weighed(spec) for source in sources if source is not None}
    for index, phase in enumerate(spec.phases or []):
        named = sorted(weighed & set((phase and phase.weights) or {}))
        if named:
            yield Problem(
                f"spec.phases[{index}].weights",
                f"weights of {', '.join(named)}",
                "no weights of a group that spec.mixture moves",
                "remove weights, or remove mixture",
            )


def _weighed(spec: Any) -> Iterator[tuple[str, list[Any]]]:
    """(path, sources) of the groups whose weights spec.mixture moves."""
    if spec.mixture is None:
        return
    yield "spec.corpus.sources", spec.corpus.sources
    if spec.mixture.domain_discrepancy is not None and spec.replay is not None:
        yield "spec.replay.sources", spec.replay.sources


@rule("mixture", "corpus.sources", "replay.sources")
def mixture_has_sources_to_weigh(spec: Any) -> Iterator[Problem]:
    groups = list(_weighed(spec))
    if groups and not any(len(sources) > 1 for _, sources in groups):
        yield Problem(
            "spec.mixture",
            "one source in a group",
            "two sources or more of the corpus, or of replay with domainDiscrepancy",
            "split the text into sources, or remove mixture",
        )


@rule("mixture", "corpus.sources", "replay.sources")
def mixture_sets_the_weights_itself(spec: Any) -> Iterator[Problem]:
    for path, sources in _weighed(spec):
        for index, source in enumerate(sources):
            if source is not None and "weight" in source.model_fields_set:
                yield Problem(
                    f"{path}[{index}].weight",
                    found_text(source.weight),
                    "no weight: spec.mixture moves the weights of this group, which start even",
                    "remove weight, or remove mixture",
                )


@rule("mixture", "corpus.sources", "replay.sources", "evaluation.sets")
def mixture_sees_the_loss_of_each_source(spec: Any) -> Iterator[Problem]:
    sets = spec.evaluation.sets
    if not sets or None in sets:
        return
    held_out = {item.name for item in sets if "uri" not in item.model_fields_set}
    for _, sources in _weighed(spec):
        for source in sources:
            if len(sources) > 1 and source is not None and source.name not in held_out | {None}:
                yield Problem(
                    "spec.evaluation.sets",
                    f"{NOTHING} held out of source {source.name}",
                    "a set without uri for each source that spec.mixture weighs",
                    f"add {{name: {source.name}}}",
                )


@rule("mixture", "mixture.skillGraph.edges", "corpus.sources")
def edges_join_sources_of_the_corpus(spec: Any) -> Iterator[Problem]:
    graph = spec.mixture and spec.mixture.skill_graph
    names = [source and source.name for source in spec.corpus.sources]
    if graph is None or None in names:
        return
    seen: set[tuple[str, str]] = set()
    for index, edge in enumerate(graph.edges):
        path = f"spec.mixture.skillGraph.edges[{index}]"
        if edge is None or None in (edge.source, edge.helps):
            continue
        for field, name in (("source", edge.source), ("helps", edge.helps)):
            if name not in names:
                expected = f"a source of the corpus: {', '.join(names)}"
                yield Problem(f"{path}.{field}", name, expected, "correct the name")
        if edge.source == edge.helps:
            yield Problem(path, f"{edge.source} helps itself", "two sources; each helps itself already", "remove it")
        if (edge.source, edge.helps) in seen:
            yield Problem(path, f"{edge.source} helps {edge.helps} a second time", "each edge once", "remove one")
        seen.add((edge.source, edge.helps))
