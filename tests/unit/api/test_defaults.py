"""What the chart fills in on a cluster, and what it cannot."""

from __future__ import annotations

import pytest

from rewarm_api.defaults import Defaults, cluster_problems
from rewarm_api.resolve import resolve

CLUSTER = {"spec.corpus.sources[0].uri": "s3://corpora/notes.txt", "spec.compute": "{gpusPerNode: 0}"}
CHART = Defaults("s3://runs/team", "s3://cache/", "http://mlflow:5000", "research")


def places(check, changes: dict[str, str], defaults: Defaults | None) -> tuple[str | None, str | None, str | None]:
    snapshot = resolve(check(CLUSTER | changes, local=False).run, uid="u", defaults=defaults)
    return snapshot.checkpoints.uri, snapshot.cache_uri, snapshot.tracking.uri


@pytest.mark.parametrize("uri", ["s3://runs/team", "s3://runs/team/"])
def test_a_run_that_names_no_place_gets_its_own_under_the_charts(check, uri):
    chart = Defaults(uri, "s3://cache/", "http://mlflow:5000", "research")
    assert places(check, {}, chart) == ("s3://runs/team/research/minimal/", "s3://cache/", "http://mlflow:5000")


def test_what_the_run_says_stands(check):
    given = {
        "spec.checkpoints": "{uri: claim://data/mine}",
        "spec.cache": "{uri: s3://elsewhere/}",
        "spec.tracking": "{uri: http://own}",
    }
    assert places(check, given, CHART) == ("claim://data/mine", "s3://elsewhere/", "http://own")
    # Where nothing is filled in, the snapshot is the same as without a chart.
    assert places(check, given, None) == places(check, given, Defaults())


@pytest.mark.parametrize("uri", ["claim://data/mine", "claim://data/mine/"])
def test_without_a_default_the_cache_lies_beside_the_checkpoints(check, uri):
    given = {"spec.checkpoints": f"{{uri: {uri}}}"}
    assert places(check, given, Defaults()) == (uri, "claim://data/mine/cache/", None)


def test_a_local_run_has_no_defaults(check):
    assert places(check, {}, None) == (None, None, None)


def test_a_cluster_without_a_place_for_checkpoints_says_who_may_name_one(check):
    run = check(CLUSTER, local=False).run
    assert cluster_problems(run, CHART) == ()
    (problem,) = cluster_problems(run, Defaults(cache_uri="s3://cache/"))
    assert (problem.field, problem.found) == ("spec.checkpoints.uri", "nothing")
    assert "the chart's value checkpoints.uri" in problem.fix
    named = check(CLUSTER | {"spec.checkpoints": "{uri: s3://runs/a/}"}, local=False).run
    assert cluster_problems(named, Defaults()) == ()
