"""`rewarm` and `kubectl rewarm` on a real kube-apiserver. No operator: the test writes what an operator would write."""

from __future__ import annotations

import hashlib
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_screens import SUCCEEDED, TRAINING, conditions
from real_cluster import needs_control_plane

from rewarm_api.errors import ManifestError
from rewarm_api.manifest import read_manifest, set_path
from rewarm_cli.client import Kubernetes, RewarmClient, WaitTimeoutError
from rewarm_cluster import binaries
from rewarm_cluster.control_plane import ControlPlane

pytestmark = [pytest.mark.slow, pytest.mark.cluster, needs_control_plane("api")]

ROOT = Path(__file__).parents[2]
RUNS = "/apis/rewarm.dev/v1alpha1/namespaces/default/continualruns"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/continualruns.rewarm.dev"
READ_RUNS = {"apiGroups": ["rewarm.dev"], "resources": ["continualruns"], "verbs": ["get", "list", "watch"]}
DIGEST = "sha256:" + "0" * 64


@dataclass
class Result:
    code: int
    out: str
    err: str


@dataclass
class Shell:
    """Runs the console script's code in processes of their own, as a user does."""

    plane: ControlPlane
    environment: dict[str, str]
    plugin: Path
    uninstalled: Result | None = None

    def run(self, *arguments: str, given: str | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "rewarm_cli", *arguments], env=self.environment, input=given,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rewarm_cli", *arguments], env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


def is_established(crd: dict[str, Any] | None) -> bool:
    known = (crd or {}).get("status", {}).get("conditions") or []
    return any(item["type"] == "Established" and item["status"] == "True" for item in known)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("bin")
    plugin = folder / "kubectl-rewarm"
    plugin.write_text(f"#!{sys.executable}\nfrom rewarm_cli.main import kubectl_plugin\nkubectl_plugin()\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    with ControlPlane("api") as plane:
        paths = [str(ROOT / part) for part in ("api", "trainer", "cli")]
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PYTHONPATH": os.pathsep.join(paths)}
        environment["PATH"] = os.pathsep.join([str(folder), environment["PATH"]])
        shell = Shell(plane, environment, plugin)
        shell.uninstalled = shell.run("list")
        plane.apply((ROOT / "crds/continualruns.yaml").read_text())
        plane.api.wait(CRD, is_established)
        yield shell


@pytest.fixture
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A small manifest for a cluster, of a name of its own."""
    found = read_manifest(ROOT / "tests/unit/api/minimal.yaml")
    set_path(found, "spec.corpus.sources[0].uri", "s3://corpora/notes.txt")
    found["metadata"]["name"] = "r-" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    return found


@pytest.fixture
def manifest(document: dict[str, Any], tmp_path: Path) -> Path:
    import yaml

    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def name(shell: Shell, manifest: Path, document: dict[str, Any]) -> str:
    """A submitted run."""
    done = shell.run("submit", str(manifest))
    assert done.code == 0, done.err
    return str(document["metadata"]["name"])


def patch_status(shell: Shell, name: str, status: dict[str, Any]) -> None:
    code, answer = shell.plane.api.call("PATCH", f"{RUNS}/{name}/status", {"status": status})
    assert code == 200, answer


def patch(shell: Shell, name: str, body: dict[str, Any]) -> None:
    code, answer = shell.plane.api.call("PATCH", f"{RUNS}/{name}", body)
    assert code == 200, answer


def first_line(process: subprocess.Popen[str]) -> str:
    """What it says when it has begun to watch."""
    assert process.stderr is not None
    return process.stderr.readline()


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)


def test_before_the_crd_is_installed_it_says_how_to(shell):
    assert shell.uninstalled.code == 66
    assert "helm install rewarm" in shell.uninstalled.err


def test_submit_creates_says_what_is_next_and_a_second_time_changes_nothing(shell, manifest, document):
    name = document["metadata"]["name"]
    first = shell.run("submit", str(manifest))
    assert (first.code, first.out) == (0, f"continualrun.rewarm.dev/{name} created\n"), first.err
    assert f"rewarm status {name} --watch" in first.err
    again = shell.run("submit", str(manifest))
    assert again.out == f"continualrun.rewarm.dev/{name} unchanged\n"
    assert shell.plane.api.get(f"{RUNS}/{name}")["metadata"]["generation"] == 1


def test_a_typo_can_be_mended_until_the_snapshot_is_taken(shell, manifest, name):
    mended = shell.run("submit", str(manifest), "--set", "spec.training.seed=7")
    assert mended.out.endswith(" configured\n"), mended.err
    patch_status(shell, name, {"snapshotDigest": DIGEST})
    refused = shell.run("submit", str(manifest), "--set", "spec.training.seed=8")
    assert refused.code == 64
    assert refused.err.startswith("error: spec.training: found a change (training is immutable")
    assert "--name" in refused.err
    allowed = shell.run("submit", str(manifest), "--set", "spec.training.seed=7", "--set", "spec.retries.maxFailures=9")
    assert allowed.code == 0, allowed.err
    under_another = shell.run("submit", str(manifest), "--set", "spec.training.seed=8", "--name", name[:20] + "-b")
    assert under_another.code == 0, under_another.err


def test_a_dry_run_keeps_nothing_and_standard_input_is_a_file(shell, manifest, document):
    tried = shell.run("submit", "-", "--dry-run", "-o", "name", given=manifest.read_text())
    assert (tried.code, tried.out) == (0, f"continualrun.rewarm.dev/{document['metadata']['name']}\n"), tried.err
    assert shell.run("status", document["metadata"]["name"]).code == 66


def test_the_server_is_strict_about_fields_that_it_does_not_know(shell, document):
    document["spec"]["schedule"]["wormup"] = "1%"
    with pytest.raises(ManifestError) as refused:
        Kubernetes(kubeconfig=str(shell.plane.kubeconfig)).submit(document, ROOT)
    (problem,) = refused.value.problems
    assert problem.field == "spec.schedule.wormup"
    assert problem.found == "the unknown field wormup"


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("spec.corpus.sources[0].uri", "notes.txt", "spec.corpus.sources[0].uri", "a cluster cannot read"),
        ("spec.training.globalBatchTokens", "1000", "spec.training", "a multiple of training.sequenceLength"),
        ("spec.training.precision", "bf16", "spec.training.precision", "one of BF16, FP32"),
        ("spec.budget.tokens", "-5", "spec.budget.tokens", "greater than or equal to 1"),
        ("metadata.name", "a.b", "metadata.name", "lower-case"),
        ("spec.budget", "null", "spec.budget", "nothing"),
    ],
)
def test_refusals_of_the_schema_and_of_cel_name_field_found_expected_and_fix(
    shell, document, path, value, field, words
):
    set_path(document, path, value)
    if document["spec"]["budget"] is None:
        del document["spec"]["budget"]
    with pytest.raises(ManifestError) as refused:
        Kubernetes(kubeconfig=str(shell.plane.kubeconfig)).submit(document, ROOT)
    told = [problem for problem in refused.value.problems if field in str(problem) and words in str(problem)]
    assert told, [str(problem) for problem in refused.value.problems]
    assert all(problem.found and problem.expected and problem.fix for problem in refused.value.problems)


def test_status_tells_the_story_in_every_form(shell, name):
    patch_status(shell, name, {**TRAINING, "snapshotDigest": DIGEST})
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{name}.1", "namespace": "default"},
        "involvedObject": {"kind": "ContinualRun", "name": name, "namespace": "default"},
        "reason": "CheckpointCommitted", "message": "step 1100", "type": "Normal", "count": 3,
        "lastTimestamp": "2026-01-31T11:56:00Z",
    }  # fmt: skip
    assert shell.plane.api.call("POST", "/api/v1/namespaces/default/events", event)[0] == 201
    shown = shell.run("status", name)
    assert shown.code == 0, shown.err
    for words in ("62 %", "-0.290 [-0.310, -0.270]", "25.04 % realised", "1  Preempted", "CheckpointCommitted"):
        assert words in shown.out
    as_json = shell.run("status", name, "-o", "json").out
    assert '"percent": 62' in as_json
    assert "managedFields" not in as_json
    assert "  percent: 62\n" in shell.run("status", name, "-o", "yaml").out
    assert "CheckpointCommitted" in shell.run("events", name).out
    assert RewarmClient(Kubernetes(kubeconfig=str(shell.plane.kubeconfig))).get(name).status.gain.mean == 0.29


def test_list_of_one_namespace_and_of_all(shell, manifest, name):
    shell.plane.namespace("team")
    assert shell.run("submit", str(manifest), "-n", "team", "--name", "theirs").code == 0
    here = shell.run("list", "-o", "name").out.splitlines()
    assert f"continualrun.rewarm.dev/{name}" in here
    assert "continualrun.rewarm.dev/theirs" not in here
    rows = [line.split() for line in shell.run("list", "-A").out.splitlines()]
    assert ["team", "theirs"] in [row[:2] for row in rows]
    assert ["default", name] in [row[:2] for row in rows]
    empty = shell.run("list", "-n", "kube-public")
    assert (empty.code, empty.out) == (0, "")
    assert "no runs in namespace kube-public" in empty.err


def test_a_name_that_is_not_there_and_the_one_that_was_meant(shell, name):
    missed = shell.run("status", name[:-1])
    assert missed.code == 66
    assert f"did you mean {name}?" in missed.err
    nowhere = shell.run("submit", str(ROOT / "examples/minimal.yaml"), "-n", "nowhere")
    assert nowhere.code in (64, 66)


def test_wait_ends_with_the_condition_that_comes_later(shell, name):
    waiting = shell.start("wait", name)
    assert f"waiting for Succeeded of run {name}" in first_line(waiting)
    patch_status(shell, name, {**SUCCEEDED, "snapshotDigest": DIGEST})
    done = finish(waiting)
    assert done.code == 0, done.err
    assert "condition Succeeded is True" in done.out


def test_wait_is_1_when_the_run_fails_and_124_when_time_is_over(shell, name):
    late = shell.run("wait", name, "--timeout", "1s")
    assert late.code == 124
    waiting = shell.start("wait", name, "--for", "condition=GatesPassed")
    first_line(waiting)
    failed = conditions(Succeeded=("False", "OutOfMemory", "trainer was OOMKilled"))
    patch_status(shell, name, {"summary": "Failed", "conditions": failed})
    done = finish(waiting)
    assert done.code == 1
    assert "OutOfMemory" in done.out
    with pytest.raises(WaitTimeoutError):
        RewarmClient(Kubernetes(kubeconfig=str(shell.plane.kubeconfig))).wait_deleted(name, timeout=0.2)


def test_wait_outlives_a_restart_of_the_api_server(shell, name):
    waiting = shell.start("wait", name, "--for", "condition=Running")
    first_line(waiting)
    shell.plane.restart_apiserver()
    patch_status(shell, name, {"summary": "Training", "conditions": conditions(Running=("True", "Training", ""))})
    done = finish(waiting)
    assert done.code == 0, done.err


def test_suspend_waits_until_it_is_done_and_resume_goes_on(shell, name):
    suspending = shell.start("suspend", name, "--wait", "-o", "name")
    shell.plane.api.wait(f"{RUNS}/{name}", lambda run: run is not None and run["spec"].get("suspend") is True)
    patch_status(shell, name, {"conditions": conditions(Suspended=("True", "Asked", ""))})
    done = finish(suspending)
    assert (done.code, done.out) == (0, f"continualrun.rewarm.dev/{name}\n"), done.err
    assert shell.run("resume", name).code == 0
    assert shell.plane.api.get(f"{RUNS}/{name}")["spec"]["suspend"] is False


def answered(shell: Shell, name: str, process: subprocess.Popen[str], asked: str, promotion: dict[str, Any]) -> Result:
    """What the command says once an operator has answered the annotation."""

    def is_asked(run: dict[str, Any] | None) -> bool:
        return run is not None and (run["metadata"].get("annotations") or {}).get("rewarm.dev/promote") == asked

    shell.plane.api.wait(f"{RUNS}/{name}", is_asked)
    patch_status(shell, name, {"promotion": promotion})
    patch(shell, name, {"metadata": {"annotations": {"rewarm.dev/promote": None}}})
    return finish(process)


def test_promote_asks_the_operator_and_says_its_answer(shell, name):
    early = shell.run("promote", name)
    assert early.code == 64
    assert "a run that has not ended" in early.err
    patch_status(shell, name, {**SUCCEEDED, "tracking": None})
    refused = shell.run("promote", name)
    assert refused.code == 66
    assert "nothing registered yet" in refused.err
    patch_status(shell, name, {**SUCCEEDED, "promotion": {"promoted": False, "reason": "asked later"}})
    yes = answered(shell, name, shell.start("promote", name), "true", {"promoted": True, "reason": "champion is 7"})
    assert (yes.code, yes.out) == (0, f"continualrun.rewarm.dev/{name} promoted: champion is 7\n")
    no = answered(
        shell,
        name,
        shell.start("promote", name, "--version", "99"),
        "99",
        {"promoted": False, "reason": "no version 99"},
    )
    assert no.code == 1
    assert "no version 99" in no.out
    silent = shell.run("promote", name, "--timeout", "1s")
    assert silent.code == 124
    assert "is the operator running" in silent.err


def test_rollback_finds_the_version_that_was_promoted_before(shell, manifest, name):
    for other, version in (("older", "5"), ("newer", "9"), ("old", "6")):
        run = f"{name[:12]}-{other}"
        assert (
            shell.run("submit", str(manifest), "--name", run, "--set", f"spec.tracking.registeredModel={name}").code
            == 0
        )
        status = {**SUCCEEDED, "tracking": {"runId": "x", "url": "", "modelVersion": version}}
        patch_status(shell, run, status)
    patch_status(shell, name, SUCCEEDED)
    done = answered(
        shell,
        name,
        shell.start("rollback", name),
        "6",
        {"promoted": False, "reason": f"champion of {name} is version 6: by hand"},
    )
    assert done.code == 0, done.err
    assert " promoted: champion of" in done.out


def test_logs_follow_until_the_run_has_ended(shell, name):
    none = shell.run("logs", name)
    assert none.code == 0
    assert "no pod of" in none.err
    following = shell.start("logs", name, "-f")
    patch_status(shell, name, SUCCEEDED)
    assert finish(following).code == 0


def test_status_follows_in_a_pipe_by_lines_and_on_a_terminal_by_one_screen(shell, name):
    patch_status(shell, name, TRAINING)
    piped = shell.start("status", name, "-w")
    assert piped.stdout is not None
    assert piped.stdout.readline() == f"{name} Training · 62 %\n"
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "rewarm_cli", "status", name, "--watch"]
    environment = {**shell.environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "60"}
    shown = subprocess.Popen(command, env=environment, stdout=terminal, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    seen = _until(screen, b"Training")
    patch_status(shell, name, SUCCEEDED)
    seen += _until(screen, b"champion is version 7")
    assert shown.wait(timeout=30) == 0, seen
    assert b"Traceback" not in seen
    assert f"{name} Succeeded" in finish(piped).out


def _until(descriptor: int, words: bytes) -> bytes:
    """What a terminal shows, up to these words and whatever came with them."""
    seen = b""
    while words not in seen:
        seen += os.read(descriptor, 4096)
    return seen


def test_delete_waits_for_the_operator_and_says_what_stays(shell, name):
    patch(shell, name, {"metadata": {"finalizers": ["rewarm.dev/run"]}})
    patch_status(shell, name, SUCCEEDED)
    deleting = shell.start("delete", name)
    shell.plane.api.wait(f"{RUNS}/{name}", lambda run: run is not None and "deletionTimestamp" in run["metadata"])
    assert "being deleted" in shell.run("status", name).out
    patch(shell, name, {"metadata": {"finalizers": None}})
    done = finish(deleting)
    assert (done.code, done.out) == (0, f"continualrun.rewarm.dev/{name} deleted\n"), done.err
    assert "checkpoints" in done.err
    assert "version 7" in done.err
    assert shell.run("delete", name).code == 66


def test_a_user_without_rights_learns_which_ones_are_missing(shell, name):
    nobody = shell.plane.user("ann")
    refused = shell.run("list", "--kubeconfig", str(nobody))
    assert refused.code == 64
    for words in ("ann", "may not list continualruns.rewarm.dev", "namespace default", "a Role with the verb list"):
        assert words in refused.err
    reader = shell.plane.user("bob", rules=[READ_RUNS], namespace="default")
    assert shell.run("status", name, "--kubeconfig", str(reader)).code == 0
    pods = shell.run("logs", name, "-f", "--kubeconfig", str(reader))
    assert pods.code == 64
    assert "may not list pods in namespace default" in pods.err
    suspended = shell.run("suspend", name, "--kubeconfig", str(reader))
    assert "may not patch continualruns.rewarm.dev" in suspended.err


def test_kubectl_finds_the_plugin(shell, name):
    kubectl = [str(binaries.find("kubectl")), "rewarm"]
    shown = subprocess.run([*kubectl, "list", "-o", "name"], env=shell.environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert f"continualrun.rewarm.dev/{name}" in shown.stdout.splitlines()
    missed = subprocess.run([*kubectl, "status", "nobody"], env=shell.environment, capture_output=True, text=True)
    assert missed.returncode == 66
    resumed = subprocess.run([*kubectl, "resume", name], env=shell.environment, capture_output=True, text=True)
    assert f"next: kubectl rewarm status {name} --watch" in resumed.stderr


def test_control_c_is_clean(shell, name):
    import signal

    waiting = shell.start("wait", name)
    first_line(waiting)
    waiting.send_signal(signal.SIGINT)
    done = finish(waiting)
    assert done.code == 130
    assert "Traceback" not in done.err


STUDIES = "/apis/rewarm.dev/v1alpha1/namespaces/default/mixturestudies"
STUDY_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mixturestudies.rewarm.dev"


@pytest.fixture
def study(shell: Shell) -> str:
    """The example's study, where its kind is served."""
    shell.plane.apply((ROOT / "crds/mixturestudies.yaml").read_text())
    shell.plane.api.wait(STUDY_CRD, is_established)
    return str(ROOT / "examples" / "study-on-a-cluster.yaml")


def test_a_study_is_submitted_and_its_answers_are_shown(shell, study):
    done = shell.run("submit", study)
    assert (done.code, done.out) == (0, "mixturestudy.rewarm.dev/pubmed-mix created\n"), done.err
    assert "status study/pubmed-mix" in done.err
    assert shell.run("submit", study).out.endswith("unchanged\n")
    assert shell.run("submit", study, "--set", "spec.parallelism=5").out.endswith("configured\n")
    answer = {"tokens": 500_000_000, "replayRatio": 0.1875, "low": 0.15, "high": 0.21, "law": "CMR", "tolerance": "2%"}
    told = {
        "type": "Stalled",
        "status": "True",
        "reason": "RunStalled",
        "message": "run x: MissingSecret",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    status = {
        "summary": "Training",
        "runs": {"total": 8, "finished": 3, "running": 2, "failed": 0},
        "conditions": [told],
    }
    status["answers"] = {"largestShare": [answer]}
    code, body = shell.plane.api.call("PATCH", f"{STUDIES}/pubmed-mix/status", {"status": status})
    assert code == 200, body
    shown = shell.run("status", "study/pubmed-mix")
    assert shown.code == 0, shown.err
    for words in (
        "8: 3 finished, 2 running, 0 failed",
        "RunStalled: run x: MissingSecret",
        "0.1875",
        "old text within 2%",
    ):
        assert words in shown.out
    assert '"parallelism": 5' in shell.run("status", "mstudy/pubmed-mix", "-o", "json").out


def test_a_study_that_is_wrong_or_not_there(shell, study):
    refused = shell.run("submit", study, "--set", "spec.grid.replayRatios=[0, 0.5]")
    assert refused.code == 64
    assert "spec.grid.replayRatios" in refused.err
    assert shell.run("submit", study, "--wait").code == 64
    missing = shell.run("status", "study/nobody")
    assert missing.code == 66
    assert "study nobody" in missing.err


def test_a_citation_is_sent_as_a_server_holds_it(shell, document, tmp_path):
    import yaml

    document["spec"]["replay"] = {
        "ratio": {"fromStudy": "mix", "tolerance": "3%"},
        "sources": [{"name": "general", "uri": "s3://corpora/general.jsonl", "license": "MIT"}],
    }
    path = tmp_path / "citing.yaml"
    path.write_text(yaml.safe_dump(document))
    done = shell.run("submit", str(path))
    assert done.code == 0, done.err
    kept = shell.plane.api.get(f"{RUNS}/{document['metadata']['name']}")["spec"]["replay"]
    assert kept["fromStudy"] == {"name": "mix", "tolerance": "3%"}
    assert "ratio" not in kept
