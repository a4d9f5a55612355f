"""What moves the mixture, as written in a manifest: refusals by name, and what the snapshot keeps."""

from __future__ import annotations

from typing import Any

import pytest

from rewarm_api.resolve import resolve
from rewarm_api.snapshot import Snapshot

ADAPTIVE = {
    "spec.replay": "{ratio: 0.25, sources: [{name: general, uri: general.jsonl, license: MIT}], "
    "adaptive: {forgettingBudget: 0.02, minimum: 5%, maximum: 50%}}"
}
WATCHED = {"spec.evaluation": "{sets: [{name: old, role: Retained, uri: old.jsonl}]}"}

REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str, str, str]]] = {
    "bounds crossed": (
        {**ADAPTIVE, "spec.replay.adaptive.minimum": "60%"},
        ("spec.replay.adaptive.minimum", "60%", "minimum <= maximum (50%)", "use at most 50%, or raise maximum"),
    ),
    "everything replayed": (
        {**ADAPTIVE, "spec.replay.adaptive.maximum": "100%"},
        ("spec.replay.adaptive.maximum", "100%", "below 100%: the corpus needs rows too", "lower maximum"),
    ),
    "ratio below its bounds": (
        {**ADAPTIVE, "spec.replay.ratio": "0.04"},
        (
            "spec.replay.ratio",
            "0.04",
            "from adaptive.minimum 5% to adaptive.maximum 50%, since it starts there",
            "start within the bounds, or widen them",
        ),
    ),
    "ratio above its bounds": (
        {**ADAPTIVE, "spec.replay.ratio": "0.51"},
        (
            "spec.replay.ratio",
            "0.51",
            "from adaptive.minimum 5% to adaptive.maximum 50%, since it starts there",
            "start within the bounds, or widen them",
        ),
    ),
    "no budget": (
        {**ADAPTIVE, "spec.replay.adaptive.forgettingBudget": None},
        (
            "spec.replay.adaptive.forgettingBudget",
            "nothing",
            "0 < forgettingBudget",
            "add forgettingBudget: it is required",
        ),
    ),
    "a budget of nothing": (
        {**ADAPTIVE, "spec.replay.adaptive.forgettingBudget": "0"},
        (
            "spec.replay.adaptive.forgettingBudget",
            "0",
            "0 < forgettingBudget",
            "change forgettingBudget to a number in this range",
        ),
    ),
    "a bare number as a share": (
        {**ADAPTIVE, "spec.replay.adaptive.minimum": "0.05"},
        ("spec.replay.adaptive.minimum", "0.05", 'a percentage, such as "5%"', 'write "5%"'),
    ),
    "nothing to replay": (
        {
            **WATCHED,
            "spec.replay": "{ratio: 0, adaptive: {forgettingBudget: 0.02, minimum: 0%, maximum: 50%}}",
        },
        (
            "spec.replay",
            "adaptive without sources",
            "exactly one of sources | fromRun, to replay from",
            "add sources to replay, or remove adaptive",
        ),
    ),
    "nothing to watch": (
        {**ADAPTIVE, "spec.evaluation": "{sets: [{name: fresh, role: New, uri: fresh.jsonl}]}"},
        (
            "spec.evaluation.sets",
            "nothing with the role Retained",
            "at least one Retained set, whose forgetting replay.adaptive watches",
            "add a set with role: Retained",
        ),
    ),
    "rows of a run and nothing to watch": (
        {
            "spec.replay": "{ratio: 0.1, fromRun: {path: x}, "
            "adaptive: {forgettingBudget: 0.02, minimum: 5%, maximum: 50%}}"
        },
        (
            "spec.evaluation.sets",
            "nothing with the role Retained",
            "at least one Retained set, whose forgetting replay.adaptive watches",
            "add a set with role: Retained",
        ),
    ),
    "two movers of one ratio": (
        {**ADAPTIVE, "spec.gates": "{maxForgetting: 0.02, onForgetting: RaiseReplay}"},
        (
            "spec.gates.onForgetting",
            "RaiseReplay with replay.adaptive",
            "Warn | Stop: replay.adaptive moves the ratio already",
            "use Warn or Stop, or remove replay.adaptive",
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_the_field_to_edit(check, name):
    changes, (field, found, expected, fix) = REFUSALS[name]
    (problem,) = check(changes).problems
    assert (problem.field, problem.found, problem.expected, problem.fix) == (field, found, expected, fix)


@pytest.mark.parametrize("field", ["forgettingBudget", "minimum", "maximum"])
def test_all_three_fields_of_adaptive_are_required(check, field):
    (problem,) = check({**ADAPTIVE, f"spec.replay.adaptive.{field}": None}).problems
    assert (problem.field, problem.found) == (f"spec.replay.adaptive.{field}", "nothing")


def test_the_ratio_may_start_at_a_bound_and_bounds_may_meet(check):
    assert check({**ADAPTIVE, "spec.replay.ratio": "0.05"}).valid
    assert check({**ADAPTIVE, "spec.replay.ratio": "0.5"}).valid
    together = {"spec.replay.adaptive.minimum": "25%", "spec.replay.adaptive.maximum": "25.0%"}
    assert check({**ADAPTIVE, **together}).valid


def test_the_snapshot_keeps_the_bounds_and_they_are_part_of_the_experiment(check):
    run = check(ADAPTIVE).run
    snapshot = resolve(run, uid="u")
    assert snapshot.to_json()["replay"]["adaptive"] == {"forgettingBudget": 0.02, "minimum": "5%", "maximum": "50%"}
    assert Snapshot.model_validate(snapshot.to_json()) == snapshot
    other = resolve(check({**ADAPTIVE, "spec.replay.adaptive.maximum": "40%"}).run, uid="u")
    assert other.digest != snapshot.digest
    plain = resolve(check({"spec.replay": ADAPTIVE["spec.replay"].split(", adaptive")[0] + "}"}).run, uid="u")
    assert "adaptive" not in plain.to_json()["replay"]


TWO = {"spec.corpus": "{sources: [{name: a, uri: a.jsonl, license: MIT}, {name: b, uri: b.jsonl, license: MIT}]}"}
GRAPH = {**TWO, "spec.mixture": "{every: 10%, skillGraph: {rate: 0.5, edges: [{source: b, helps: a}]}}"}
DISCREPANCY = {**TWO, "spec.mixture": "{domainDiscrepancy: {}}"}

MIXTURE_REFUSALS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "no rule": ({**TWO, "spec.mixture": "{every: 10%}"}, ("spec.mixture", "nothing")),
    "two rules": (
        {**GRAPH, "spec.mixture.domainDiscrepancy": "{}"},
        ("spec.mixture", "domainDiscrepancy and skillGraph"),
    ),
    "one source": ({"spec.mixture": "{domainDiscrepancy: {}}"}, ("spec.mixture", "one source in a group")),
    "a weight of its own": (
        {
            **DISCREPANCY,
            "spec.corpus": "{sources: [{name: a, uri: a.jsonl, weight: 2, license: MIT}, "
            "{name: b, uri: b.jsonl, weight: 1, license: MIT}]}",
        },
        ("spec.corpus.sources[0].weight", "2"),
    ),
    "an edge to nowhere": (
        {**GRAPH, "spec.mixture.skillGraph.edges": "[{source: c, helps: a}]"},
        ("spec.mixture.skillGraph.edges[0].source", "c"),
    ),
    "an edge to itself": (
        {**GRAPH, "spec.mixture.skillGraph.edges": "[{source: a, helps: a}]"},
        ("spec.mixture.skillGraph.edges[0]", "a helps itself"),
    ),
    "an edge twice": (
        {**GRAPH, "spec.mixture.skillGraph.edges": "[{source: a, helps: b}, {source: a, helps: b, weight: 1}]"},
        ("spec.mixture.skillGraph.edges[1]", "a helps b a second time"),
    ),
    "a source that nobody scores": (
        {**GRAPH, "spec.evaluation": "{sets: [{name: a}]}"},
        ("spec.evaluation.sets", "nothing held out of source b"),
    ),
    "a teacher of nothing": (
        {**DISCREPANCY, "spec.mixture.domainDiscrepancy": "{teacher: {}}"},
        ("spec.mixture.domainDiscrepancy.teacher", "nothing"),
    ),
    "two teachers": (
        {**DISCREPANCY, "spec.mixture.domainDiscrepancy": "{teacher: {file: {path: x}, s3: {uri: s3://b/x}}}"},
        ("spec.mixture.domainDiscrepancy.teacher", "s3 and file"),
    ),
    "too much smoothing": (
        {**DISCREPANCY, "spec.mixture.domainDiscrepancy.smoothing": "1.5"},
        ("spec.mixture.domainDiscrepancy.smoothing", "1.5"),
    ),
}


@pytest.mark.parametrize("name", MIXTURE_REFUSALS)
def test_a_mixtures_refusals_name_the_field_to_edit(check, name):
    changes, wanted = MIXTURE_REFUSALS[name]
    problem = check(changes).problems[0]
    assert (problem.field, problem.found) == wanted


def test_a_mixtures_rule_starts_from_even_weights_and_is_part_of_the_experiment(check):
    graph, plain = (resolve(check(changes).run, uid="u") for changes in (GRAPH, TWO))
    assert [source.weight for source in graph.sources] == [1.0, 1.0]
    assert [source.weight for source in plain.sources] == [None, None]
    assert graph.to_json()["mixture"] == {
        "every": "10%",
        "domainDiscrepancy": None,
        "skillGraph": {"rate": 0.5, "window": 3, "edges": [{"source": "b", "helps": "a", "weight": 0.5}]},
    }
    assert "mixture" not in plain.to_json()
    assert graph.digest != plain.digest
    assert Snapshot.model_validate(graph.to_json()) == graph


def test_a_teacher_on_this_machine_is_for_local_runs(check):
    changes = {**DISCREPANCY, "spec.mixture.domainDiscrepancy": "{teacher: {file: {path: x}}}"}
    assert check(changes).valid
    fields = [problem.field for problem in check(changes, local=False).problems]
    assert "spec.mixture.domainDiscrepancy.teacher.file" in fields
    snapshot = resolve(check(changes).run, uid="u")
    assert snapshot.mixture.domain_discrepancy.teacher.to_json() == {"kind": "file", "options": {"path": "x"}}


def test_sample_weights_default_to_the_papers_setting_and_leave_no_trace_when_off(check):
    on = resolve(check({"spec.training.sampleWeights": "{strategy: LinUpper}"}).run, uid="u")
    assert on.to_json()["training"]["sampleWeights"] == {
        "strategy": "LinUpper",
        "temperature": 1.0,
        "uniform": "5%",
    }
    assert "sampleWeights" not in resolve(check({}).run, uid="u").to_json()["training"]
    (problem,) = check({"spec.training.sampleWeights": "{temperature: 1}"}).problems
    assert problem.field == "spec.training.sampleWeights.strategy"
    (problem,) = check({"spec.training.sampleWeights": "{strategy: LinUpper, temperature: 0}"}).problems
    assert (problem.field, problem.found) == ("spec.training.sampleWeights.temperature", "0")


SUBSET_REFUSALS: dict[str, tuple[str, tuple[str, str]]] = {
    "no size": ("subset: {by: Random}", ("spec.corpus.sources[0].subset", "nothing")),
    "two sizes": ("subset: {share: 10%, tokens: 5M}", ("spec.corpus.sources[0].subset", "share and tokens")),
    "nothing of it": ("subset: {share: 0%}", ("spec.corpus.sources[0].subset.share", "0%")),
    "no score": ("subset: {share: 10%, by: HighestScore}", ("spec.corpus.sources[0].scoreField", "nothing")),
    "an idle score": ("scoreField: quality", ("spec.corpus.sources[0].scoreField", "quality")),
    "an idle score beside a subset": (
        "scoreField: quality, subset: {share: 10%}",
        ("spec.corpus.sources[0].scoreField", "quality"),
    ),
    "scores of texts": (
        "format: Text, scoreField: quality, subset: {share: 10%, by: LowestScore}",
        ("spec.corpus.sources[0].scoreField", "quality"),
    ),
    "a subset of shards": (
        "format: Tokens, subset: {share: 10%}",
        ("spec.corpus.sources[0].subset", "subset with format Tokens"),
    ),
}


@pytest.mark.parametrize("name", SUBSET_REFUSALS)
def test_a_subsets_refusals_name_the_field_to_edit(check, name):
    text, wanted = SUBSET_REFUSALS[name]
    source = f"{{sources: [{{name: a, uri: a.jsonl, license: MIT, {text}}}]}}"
    assert wanted in [(problem.field, problem.found) for problem in check({"spec.corpus": source}).problems]


def test_a_subset_is_part_of_the_experiment(check):
    def snapshot(more: str) -> Snapshot:
        text = f"{{sources: [{{name: a, uri: a.jsonl, license: MIT{more}}}]}}"
        return resolve(check({"spec.corpus": text}).run, uid="u")

    plain, best = snapshot(""), snapshot(", scoreField: q, subset: {share: 10%, by: HighestScore}")
    (source,) = best.to_json()["sources"]
    assert (source["scoreField"], source["subset"]) == ("q", {"share": "10%", "tokens": None, "by": "HighestScore"})
    assert {"scoreField", "subset"} & plain.to_json()["sources"][0].keys() == set()
    assert plain.digest != best.digest


PHASED = {
    "spec.phases": "[{name: first, share: 80%}, {name: last, share: 20%, replayRatio: 0.3}]",
}


def test_a_planned_phase_keeps_to_the_bounds_of_the_ratio(check):
    assert check({**ADAPTIVE, **PHASED}).valid
    (problem,) = check({**ADAPTIVE, **PHASED, "spec.phases[1].replayRatio": "0.6"}).problems
    assert (problem.field, problem.found) == ("spec.phases[1].replayRatio", "0.6")


def test_a_planned_phase_leaves_weights_to_the_mixtures_rule(check):
    phases = "[{name: first, share: 80%}, {name: last, share: 20%, weights: {a: 1, b: 2}}]"
    assert check({**TWO, "spec.phases": phases}).valid
    (problem,) = check({**GRAPH, "spec.phases": phases}).problems
    assert (problem.field, problem.found) == ("spec.phases[1].weights", "weights of a, b")


def test_a_ratio_from_a_study_is_not_moved(check):
    (problem,) = check({**ADAPTIVE, "spec.replay.ratio": "{fromStudy: mine}"}).problems
    assert (problem.field, problem.found) == ("spec.replay.adaptive", "adaptive with a ratio from a study")
