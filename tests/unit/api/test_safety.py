"""Addresses that carry credentials, leave their claim, or have others' code run: refused by name, without repeating the
secret. What a server says to them: tests/integration/test_crd_apiserver.py."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm_api.errors import Problem
from rewarm_api.redaction import has_credentials, redacted

CLUSTER = {
    "spec.corpus.sources[0].uri": "s3://corpora/notes.txt",
    "spec.compute": "{gpusPerNode: 0}",
}
SET = "[{name: s, role: New, uri: 'https://u:canary@h/x.txt'}]"
RESIDUAL = "[{instructResidual: {instruct: {s3: {uri: 's3://u:canary@m/i/'}}, base: {s3: {uri: 's3://m/b/'}}}}]"


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("field", "text", "named"),
    [
        ("spec.corpus.sources[0].uri", "s3://user:canary@corpora/notes.txt", "spec.corpus.sources[0].uri"),
        ("spec.corpus.sources[0].uri", "ftp://user:canary@corpora/notes.txt", "spec.corpus.sources[0].uri"),
        ("spec.evaluation.sets", SET, "spec.evaluation.sets[0].uri"),
        ("spec.checkpoints.uri", "s3://user:canary@runs/", "spec.checkpoints.uri"),
        ("spec.cache.uri", "s3://user:canary@cache/", "spec.cache.uri"),
        ("spec.tracking.uri", "http://user:can@ary@mlflow:5000", "spec.tracking.uri"),
        ("spec.tracking.uri", "postgresql://user:canary@db/mlflow", "spec.tracking.uri"),
        ("spec.baseModel", "{s3: {uri: 's3://user:canary@models/base/'}}", "spec.baseModel.s3.uri"),
        ("spec.finish", RESIDUAL, "spec.finish[0].instructResidual.instruct.s3.uri"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(check, field, text, named, local) -> None:
    problems = check({**({} if local else CLUSTER), field: text}, local=local).problems
    told = [problem for problem in problems if "without user and password" in str(problem)]
    assert [problem.field for problem in told] == [named]
    assert "spec.credentials" in told[0].fix
    whole = " ".join(map(str, problems)) + json.dumps([problem.to_json() for problem in problems])
    assert "canary" not in whole
    assert "can@ary" not in whole
    assert "://***@" in told[0].found


@pytest.mark.parametrize(
    "uri", ["claim://data/../runs/x.txt", "claim://data//etc/x.txt", "claim://data/a/../../x.txt", "claim://data/a/.."]
)
@pytest.mark.parametrize("field", ["spec.corpus.sources[0].uri", "spec.checkpoints.uri", "spec.cache.uri"])
def test_a_way_out_of_a_claim_is_refused(check, field, uri) -> None:
    problems = check({**CLUSTER, field: uri}, local=False).problems
    assert (field, uri) in [
        (problem.field, problem.found) for problem in problems if "inside the claim" in str(problem)
    ]


@pytest.mark.parametrize("path", ["/etc", "../other", "a/../../b", ".."])
def test_a_base_model_lies_inside_its_claim(check, path) -> None:
    changes = {**CLUSTER, "spec.baseModel": f"{{volume: {{claim: models, path: {path}}}}}"}
    (problem,) = check(changes, local=False).problems
    assert (problem.field, problem.found) == ("spec.baseModel.volume.path", path)
    assert "without .. and without a first slash" in problem.fix


@pytest.mark.parametrize("repo", ["../../etc", "/etc/models", "a/b/c", "file:///x", "a b/c", "-a/b"])
def test_a_repository_is_a_name_and_no_path(check, repo) -> None:
    (problem,) = check({"spec.baseModel": f"{{huggingFace: {{repo: '{repo}'}}}}"}).problems
    assert (problem.field, problem.expected) == (
        "spec.baseModel.huggingFace.repo", "a repository of the hub, as owner/name",
    )  # fmt: skip


@pytest.mark.parametrize(
    "uri", ["sqlite:////tmp/mlflow.db", "file:///tmp/mlruns", "databricks://x", "http://", "mlflow"]
)
def test_a_cluster_tracks_with_a_server_and_nothing_else(check, uri) -> None:
    """The operator opens this address: it must not be made to write files."""
    (problem,) = check({**CLUSTER, "spec.tracking.uri": uri}, local=False).problems
    assert (problem.field, problem.found) == ("spec.tracking.uri", uri)
    assert not check({"spec.tracking.uri": "sqlite:////tmp/mlflow.db"}).problems


def test_code_of_others_is_no_scratch_configuration(check) -> None:
    config = "{model_type: llama, auto_map: {AutoModelForCausalLM: someone/else--x.X}}"
    (problem,) = check({"spec.baseModel": f"{{scratch: {{config: {config}}}}}"}).problems
    assert problem.field == "spec.baseModel.scratch.config.auto_map"
    assert "code from elsewhere is never run" in problem.expected


@pytest.mark.parametrize(
    "uri",
    ["hf://owner/name@abc123/data/*.parquet", "s3://bucket/a@b/c.txt", "claim://data/a..b/c.txt", "s3://b/x/../y.txt"],
)
def test_what_only_looks_like_it_is_taken(check, uri) -> None:
    changes = {**CLUSTER, "spec.corpus.sources[0].uri": uri, "spec.corpus.sources[0].format": "Text"}
    problems = check(
        changes if not uri.startswith("hf") else {**CLUSTER, "spec.corpus.sources[0].uri": uri}, local=False
    )
    assert problems.problems == ()


@settings(deadline=None)
@given(st.text("ab:@%!", min_size=1), st.text("xyz.", min_size=1), st.text("abc@/ ", max_size=9))
def test_what_stands_before_the_host_never_stays(user: str, host: str, rest: str) -> None:
    shown = redacted(f"see http://{user}@{host}/{rest} now")
    assert shown == f"see http://***@{host}/{rest} now"
    assert has_credentials(f"http://{user}@{host}/{rest}")
    assert not has_credentials(f"http://{host}/{rest}")


def test_every_problem_is_shown_without_credentials() -> None:
    problem = Problem("f", "ftp://u:canary@h/x", "s3://", "copy it")
    assert str(problem) == "f: found ftp://***@h/x, expected s3://; copy it"


@pytest.mark.parametrize(
    "name", ['a"} or up{x="', "a\nb 1", "a{b}", "$run", "a'b", "a,b", "../a", "a/b", "<b>", "a;b", "A", "a b", "ä"]
)
@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("metadata.name", "{}"),
        ("spec.corpus.sources[0].name", "{}"),
        ("spec.evaluation.sets", "[{{name: {}, role: New, uri: x.jsonl}}]"),
        ("spec.evaluation.benchmarks", "[{{name: {}, tasks: [arc_easy]}}]"),
    ],
)
def test_names_are_fit_for_labels_queries_paths_and_pages(check, field, text, name) -> None:
    """They stand in metric labels, PromQL of dashboards, MLflow's filters, object names, folders and HTML."""
    problems = check({field: text.format(json.dumps(name))}).problems
    (told,) = [problem for problem in problems if problem.field.startswith(field) and problem.field.endswith("name")]
    assert "a name: a lower-case letter" in told.expected
