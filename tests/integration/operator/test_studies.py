"""A MixtureStudy on a real API server: its runs, its fit, its end, and what a restart, a failure and a deletion do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from operator_process import End, Json, Place, condition, prepare_only, role, succeed
from real_cluster import needs_control_plane

from rewarm_api.manifest import read_manifest, set_path
from rewarm_api.reported import Termination
from rewarm_cluster.api import Api

pytestmark = [pytest.mark.slow, needs_control_plane("jobs")]

EXAMPLE = Path(__file__).parents[3] / "examples" / "study-on-a-cluster.yaml"
ANSWER = {"tokens": 500_000_000, "replayRatio": 0.1875, "low": 0.15, "high": 0.21, "law": "CMR", "tolerance": "2%"}
RESULT = {
    "answers": {"largestShare": [ANSWER], "sets": [{"set": "general", "role": "Retained", "r2": 0.99}]},
    "artefact": {"uri": "s3://runs/pubmed-mix/study.json", "digest": "sha256:" + "a" * 64},
}


def studies(place: Place) -> str:
    return f"/apis/rewarm.dev/v1alpha1/namespaces/{place.namespace}/mixturestudies"


def apply(place: Place, **changes: str) -> str:
    """The path of the example's study, on CPUs; strictly, as kubectl does."""
    document: Json = read_manifest(EXAMPLE)
    document["metadata"]["namespace"] = place.namespace
    set_path(document, "spec.template.spec.compute", "{nodes: 1, gpusPerNode: 0}")
    for path, text in changes.items():
        set_path(document, path.replace("__", "."), text)
    status, answer = place.api.call("POST", f"{studies(place)}?fieldValidation=Strict", document)
    assert status == 201, answer
    return f"{studies(place)}/pubmed-mix"


def counted(study: Json, name: str) -> int:
    """Of the runs, as the status has it."""
    return int(((study.get("status") or {}).get("runs") or {}).get(name, 0))


def history(place: Place, since: str) -> list[Json]:
    """Every event of every run since then."""
    return list(place.api.watch(place.runs, timeout_s=2, resourceVersion=since))


def now(place: Place) -> str:
    """The resourceVersion of the list of runs; a kind that was just made is answered 429 for a moment."""
    give_up = time.monotonic() + 30
    while (answer := place.api.call("GET", place.runs))[0] == 429 and time.monotonic() < give_up:
        time.sleep(0.2)
    return str(answer[1]["metadata"]["resourceVersion"])


def ends(pod: Json) -> End | None:
    """Everything goes well."""
    if role(pod) != "fit":
        return succeed(pod)
    return 0, Termination.model_validate({"outcome": "Succeeded", "study": RESULT}).to_message()


def most_open(events: list[Json]) -> int:
    """How many runs without a verdict there were at the same time, at most."""
    unfinished: set[str] = set()
    most = 0
    for event in events:
        run: Any = event["object"]
        is_over = event["type"] == "DELETED" or condition(run, "Succeeded")[0] in ("True", "False")
        (unfinished.discard if is_over else unfinished.add)(run["metadata"]["name"])
        most = max(most, len(unfinished))
    return most


def test_a_study_makes_its_runs_fits_and_answers_and_a_restart_writes_nothing(place: Place):
    since, path = now(place), apply(place)
    with place.kubelet(ends), place.operator() as operator:
        study = place.finished(path, within_s=240)
        operator.await_metric("rewarm_operator_queue_depth", 0.0)
        operator.end()
    assert condition(study, "Succeeded") == ("True", "Answered")
    status = study["status"]
    assert status["runs"] == {"total": 8, "finished": 8, "running": 0, "failed": 0}
    assert status["answers"]["largestShare"] == [ANSWER]
    assert status["artefact"] == RESULT["artefact"]
    runs = place.api.get(place.runs)["items"]
    assert {run["metadata"]["labels"]["rewarm.dev/study"] for run in runs} == {"pubmed-mix"}
    assert [condition(run, "Succeeded")[0] for run in runs] == ["True"] * 8
    assert most_open(history(place, since)) <= 3
    patches = [request for request in place.proxy.changes if "mixturestudies" in request.path]
    assert {request.method for request in patches} == {"PATCH"}
    assert len(patches) <= 16, "few writes on the study: its runs come and go"
    before = place.api.get(path)["metadata"]["resourceVersion"]
    place.proxy.forget()
    with place.operator() as operator:
        operator.lead()
        lists = [request.path for request in place.proxy.requests].count(studies(place))
        place.proxy.wait(lambda: [r.path for r in place.proxy.requests].count(studies(place)) > lists + 1)
    assert place.proxy.writes == []
    assert place.api.get(path)["metadata"]["resourceVersion"] == before
    table = _table(place.api, studies(place))
    assert table["pubmed-mix"]["Replay"] == 0.1875
    assert (table["pubmed-mix"]["Runs"], table["pubmed-mix"]["Succeeded"]) == (8, "True")


def _table(api: Api, path: str) -> dict[str, Json]:
    """What `kubectl get` shows, by the columns of the CRD."""
    version = api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mixturestudies.rewarm.dev")
    columns = version["spec"]["versions"][0]["additionalPrinterColumns"]
    plain = [column for column in columns if "[?" not in column["jsonPath"]]
    rows = {}
    for item in api.get(path)["items"]:
        row = {"Succeeded": condition(item, "Succeeded")[0]}
        for column in plain:
            value: Any = item
            for step in column["jsonPath"].strip(".").split("."):
                value = (value or {}).get(step)
            row[column["name"]] = value
        rows[item["metadata"]["name"]] = row
    return rows


def test_killed_in_the_middle_each_run_is_made_once(place: Place):
    since, path = now(place), apply(place, spec__parallelism="2")
    with place.kubelet(ends):
        for number in range(3):
            with place.operator(f"operator-{number}"):
                wanted = 2 * number + 2
                place.api.wait(path, lambda study, wanted=wanted: counted(study, "finished") >= wanted, within_s=180)
        with place.operator("operator-9"):
            study = place.finished(path, within_s=240)
    assert condition(study, "Succeeded") == ("True", "Answered")
    events = history(place, since)
    made = [event["object"]["metadata"]["name"] for event in events if event["type"] == "ADDED"]
    assert len(made) == len(set(made)) == 8
    assert most_open(events) <= 2


def test_a_run_that_fails_ends_the_study_and_no_other_is_made(place: Place):
    def one_diverges(pod: Json) -> End | None:
        if pod["metadata"]["labels"]["rewarm.dev/run"].startswith("pubmed-mix-r0-05-") and role(pod) == "trainer":
            message = Termination.model_validate({"exitCode": 76, "message": "the loss is not finite"}).to_message()
            return 76, message
        return prepare_only(pod)

    path = apply(place)
    with place.kubelet(one_diverges), place.operator():
        study = place.finished(path, within_s=240)
        assert condition(study, "Succeeded") == ("False", "RunFailed")
        message = next(c["message"] for c in study["status"]["conditions"] if c["type"] == "Succeeded")
        assert message.startswith("run pubmed-mix-r0-05-t500000000: Diverged")
        assert study["status"]["runs"]["failed"] == 1
    assert len(place.api.get(place.runs)["items"]) == 3


def test_deleting_a_study_takes_its_runs_and_jobs_along(place: Place):
    path = apply(place)
    with place.kubelet(prepare_only), place.operator():
        place.api.wait(path, lambda study: counted(study, "running") == 3, within_s=180)
        assert place.api.call("DELETE", path)[0] == 200
        place.api.wait(path, lambda study: study is None)
        for name in [run["metadata"]["name"] for run in place.api.get(place.runs)["items"]]:
            place.api.wait(f"{place.runs}/{name}", lambda run: run is None, within_s=90)
            place.api.wait(f"{place.jobs}/{name}-a1", lambda job: job is None, within_s=90)


def test_what_the_schema_of_a_study_refuses_and_what_the_operator_does(place: Place):
    document: Json = read_manifest(EXAMPLE)
    document["metadata"]["namespace"] = place.namespace
    document["spec"]["grid"]["replayRatios"] = [0, 0.5]
    assert place.api.call("POST", studies(place), document)[0] == 422
    path = apply(place, spec__template__spec__training__globalBatchTokens="1000")
    with place.operator():
        study = place.api.wait(path, lambda s: condition(s, "SpecValid")[0] == "False", within_s=180)
        message = next(c["message"] for c in study["status"]["conditions"] if c["type"] == "SpecValid")
        assert "spec.template.spec.training.globalBatchTokens" in message
        assert place.api.get(place.runs)["items"] == []
        place.edit(path, {"spec": {"template": {"spec": {"training": {"globalBatchTokens": 524288}}}}})
        place.api.wait(path, lambda s: condition(s, "SpecValid")[0] == "True", within_s=180)
        place.api.wait(f"{place.runs}/pubmed-mix-r0-02-t500000000", lambda run: run is not None, within_s=180)
