"""The frame of the command line: help, usage errors, how errors become lines and codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rewarm_api.errors import DataError, DependencyError, DivergedError, MissingInputError, Preempted
from rewarm_cli import version as version_command

CLUSTER = (
    "submit", "status", "list", "logs", "events", "wait", "suspend", "resume", "promote", "rollback", "delete",
)  # fmt: skip
COMMANDS = ("validate", "plan", "run", "report", "checkpoints", "export", "compare", "version", *CLUSTER)


def test_help_names_every_command():
    finished = subprocess.run([sys.executable, "-m", "rewarm_cli", "--help"], capture_output=True, text=True)
    assert finished.returncode == 0
    assert all(f"  {command} " in finished.stdout for command in COMMANDS)


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['rewarm', '--help']\n"
        "from rewarm_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'mlflow', 'yaml', 'matplotlib', 'kubernetes'}"
        " & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(rewarm, command):
    result = rewarm(command, "--help")
    assert result.code == 0
    assert f"rewarm {command}" in result.out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["trane"], "trane"),
        (["plan"], "FILE"),
        (["plan", "x.yaml", "--polt", "y.png"], "--polt"),
        (["validate", "x.yaml", "-o", "xml"], "xml"),
        (["run", "x.yaml", "--processes", "0"], "processes"),
        (["export", "x"], "OUT"),
    ],
)
def test_wrong_usage_is_64_on_standard_error(rewarm, arguments, word):
    result = rewarm(*arguments)
    assert result.code == 64
    assert word in result.err
    assert result.out == ""


def test_no_command_shows_help_and_is_64(rewarm):
    result = rewarm()
    assert result.code == 64
    assert "Commands:" in result.out + result.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("file a, line 3: broken"), 65),
        (MissingInputError("file b"), 66),
        (DependencyError("disk full"), 75),
        (DivergedError("loss is not finite"), 76),
        (Preempted("stopped after step 3"), 143),
    ],
)
def test_named_errors_are_one_line_and_their_code(rewarm, monkeypatch, error, code):
    def fail(output):
        raise error

    monkeypatch.setattr(version_command, "execute", fail)
    result = rewarm("version")
    assert (result.code, result.err) == (code, f"error: {error}\n")


def test_a_fault_of_ours_is_70_with_a_traceback(rewarm, monkeypatch):
    def fail(output):
        raise ZeroDivisionError("one over nothing")

    monkeypatch.setattr(version_command, "execute", fail)
    result = rewarm("version")
    assert result.code == 70
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("error: internal error: ZeroDivisionError: one over nothing")


def test_a_reader_that_leaves_early_is_no_error(manifest):
    positions = ",".join(str(position) for position in range(0, 10_000, 3))
    command = f'"{sys.executable}" -m rewarm_cli plan "{manifest()}" -o json --at {positions} | head -n 1'
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (finished.stdout, finished.stderr) == ("{\n", "")


def test_version_in_both_forms(rewarm):
    as_json = rewarm("version", "-o", "json")
    assert as_json.json["python"] == sys.version.split()[0]
    assert f"rewarm {as_json.json['rewarm']}" in rewarm("version").out


def test_the_plugin_speaks_as_kubectl_rewarm_and_leaves_this_machine_alone():
    script = "import sys; from rewarm_cli.main import kubectl_plugin; sys.argv = ['kubectl-rewarm', *sys.argv[1:]]\n"
    script += "kubectl_plugin()"
    finished = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("Usage: kubectl rewarm ")
    shown = {
        line.split()[0] for line in finished.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")
    }
    assert {*CLUSTER, "validate", "plan", "version"} <= shown
    assert not {"run", "report", "checkpoints", "export", "compare"} & shown


def test_without_the_kubernetes_client_the_message_says_what_to_install(rewarm, monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    result = rewarm("list")
    assert (result.code, result.out) == (64, "")
    assert "pip install 'rewarm[cluster]'" in result.err
    assert len(result.err.splitlines()) == 1


def test_without_a_kubeconfig_it_is_66(rewarm, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = rewarm("list")
    assert result.code == 66
    assert str(tmp_path / "none") in result.err
    assert "--kubeconfig" in result.err


@pytest.mark.parametrize("text", ["", "{", "a: [1", "[1, 2]", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_that_is_none_is_64_in_one_line(rewarm, monkeypatch, tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    result = rewarm("list")
    assert (result.code, len(result.err.splitlines())) == (64, 1), result.err


def test_an_unknown_context_names_those_that_there_are(rewarm, tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {}}]\n"
        "contexts: [{name: lab, context: {cluster: c, user: u}}, {name: prod, context: {cluster: c, user: u}}]\n"
    )
    result = rewarm("list", "--kubeconfig", path, "--context", "prid")
    assert result.code == 64
    assert "lab, prod" in result.err
    assert "did you mean prod?" in result.err
    nobody = rewarm("list", "--kubeconfig", path)
    assert nobody.code == 75
    assert "https://127.0.0.1:1: connection refused" in nobody.err


def test_an_invalid_manifest_is_refused_before_any_cluster_is_asked(rewarm, monkeypatch, manifest, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = rewarm("submit", manifest(budget={"tokens": -5}))
    assert result.code == 64
    assert "spec.budget.tokens" in result.err
    assert "spec.baseModel" in result.err
