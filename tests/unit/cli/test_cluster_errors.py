"""Refusals of an API server as lines for people. What a real one answers: tests/integration/test_cluster_cli.py."""

from __future__ import annotations

import json

import pytest

from rewarm_api.errors import DependencyError, ManifestError, MissingInputError
from rewarm_cli.cluster import PODS, RUNS
from rewarm_cli.cluster_errors import (
    Asked,
    ConflictError,
    DeniedError,
    ExpiredError,
    GoneError,
    meant,
    refused,
    unreachable,
)

ADDRESS = "https://10.0.0.1:6443"


def asked(
    method: str = "GET", name: str = "", namespace: str | None = "research", resource=RUNS, sub: str = ""
) -> Asked:
    return Asked(method, resource, namespace, name, sub, ADDRESS)


def answer(code: int, message: str, what: Asked, **details: object) -> Exception:
    body = {"kind": "Status", "status": "Failure", "message": message, "details": details, "code": code}
    return refused(code, json.dumps(body).encode(), what)


def test_forbidden_names_who_what_and_where():
    message = (
        'continualruns.rewarm.dev is forbidden: User "ann" cannot list resource "continualruns" in API group '
        '"rewarm.dev" in the namespace "research"'
    )
    error = answer(403, message, asked(), group="rewarm.dev", kind="continualruns")
    assert (type(error), error.exit_code) == (DeniedError, 64)
    assert str(error) == (
        "continualruns.rewarm.dev: found ann, who may not list continualruns.rewarm.dev in namespace research, "
        "expected a Role with the verb list on continualruns.rewarm.dev; ask whoever administers the cluster"
    )


def test_forbidden_logs_name_the_subresource():
    error = answer(
        403,
        'pods "x" is forbidden: User "ann" cannot get resource "pods/log"',
        asked(name="x", resource=PODS, sub="log"),
    )
    assert "may not get pods/log in namespace research" in str(error)


def test_a_quota_is_no_missing_right():
    error = answer(403, 'continualruns "x" is forbidden: exceeded quota: runs, used: 5, limited: 5', asked("POST"))
    assert "exceeded quota: runs, used: 5, limited: 5" in str(error)
    assert "Role" not in str(error)


def test_a_kind_that_is_not_installed_says_how_to_install_it():
    error = refused(404, b"404 page not found\n", asked())
    assert isinstance(error, MissingInputError)
    assert not isinstance(error, GoneError)
    assert "helm install rewarm" in str(error)
    assert ADDRESS in str(error)


def test_an_object_and_a_namespace_that_are_not_there():
    gone = answer(404, 'continualruns.rewarm.dev "x" not found', asked(name="x"), name="x", kind="continualruns")
    assert isinstance(gone, GoneError)
    assert gone.exit_code == 66
    nowhere = answer(404, 'namespaces "no" not found', asked("POST", namespace="no"), name="no", kind="namespaces")
    assert "kubectl create namespace no" in str(nowhere)


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [(401, DeniedError, 64), (409, ConflictError, 64), (410, ExpiredError, 75), (429, DependencyError, 75),
     (500, DependencyError, 75), (503, DependencyError, 75), (405, ManifestError, 64)],
)  # fmt: skip
def test_other_answers_have_their_code(code, kind, exit_code):
    error = answer(code, "words", asked(name="x"))
    assert (type(error), error.exit_code) == (kind, exit_code)


def problems(error: Exception) -> dict[str, tuple[str, str, str]]:
    assert isinstance(error, ManifestError)
    return {item.field: (item.found, item.expected, item.fix) for item in error.problems}


def test_unknown_fields_are_named_one_by_one():
    message = (
        'ContinualRun in version "v1alpha1" cannot be handled as a ContinualRun: strict decoding error: '
        'unknown field "spec.schedule.wormup", unknown field "spec.sched"'
    )
    found = problems(answer(400, message, asked("POST")))
    assert set(found) == {"spec.schedule.wormup", "spec.sched"}
    assert found["spec.schedule.wormup"][0] == "the unknown field wormup"


def causes(*items: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    listed = [{"field": field, "reason": reason, "message": message} for field, reason, message in items]
    return problems(answer(422, "ContinualRun is invalid", asked("POST"), name="x", causes=listed))


def test_rules_of_the_schema_and_of_cel():
    found = causes(
        ("spec.replay.ratio", "FieldValueInvalid",
         "Invalid value: 1.2: spec.replay.ratio in body should be less than 1"),
        ("spec.training.precision", "FieldValueNotSupported",
         'Unsupported value: "bf16": supported values: "BF16", "FP32"'),
        ("spec.budget", "FieldValueRequired", "Required value"),
        ("spec.corpus.sources[0].uri", "FieldValueInvalid",
         "Invalid value: \"string\": expected s3:// | claim://NAME/path: a cluster cannot read this machine's files"),
        ("", "FieldValueInvalid", "Invalid value: null: some validation rules were not checked because the object was "
         "invalid; correct the existing errors to complete validation"),
    )  # fmt: skip
    assert found["spec.replay.ratio"][:2] == ("1.2", "less than 1")
    assert found["spec.training.precision"][:2] == ("bf16", "one of BF16, FP32")
    assert found["spec.budget"] == ("nothing", "a value", "add budget")
    assert found["spec.corpus.sources[0].uri"][1].startswith("s3:// | claim://NAME/path")
    assert "" not in found


def test_what_is_immutable_says_what_to_do():
    message = "Forbidden: training is immutable once the run was resolved; make a new run"
    found = causes(("spec.training", "FieldValueForbidden", message))
    assert found["spec.training"][2] == "submit it under another name (--name)"
    message = "Forbidden: compute may change only while the run is suspended; set spec.suspend to true first"
    assert "rewarm suspend" in causes(("spec.compute", "FieldValueForbidden", message))["spec.compute"][2]


@pytest.mark.parametrize(
    ("text", "exit_code", "words"),
    [
        ("[Errno 111] Connection refused", 75, "connection refused"),
        ("Read timed out. (read timeout=60)", 75, "no answer in time"),
        ("Failed to resolve 'nowhere' ([Errno -2] Name or service not known)", 75, "no such host name"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", 64, "certificate"),
    ],
)
def test_a_server_that_does_not_answer(text, exit_code, words):
    error = unreachable(ADDRESS, OSError(text))
    assert error.exit_code == exit_code
    assert words in str(error)
    assert ADDRESS in str(error)


def test_meant():
    assert meant("llama-pubme", ["llama-pubmed", "other"]) == "did you mean llama-pubmed?"
    assert meant("xyz", ["llama-pubmed"]) == ""
