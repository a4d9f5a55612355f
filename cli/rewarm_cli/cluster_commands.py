"""The words for runs on a cluster, in `rewarm` and in `kubectl rewarm`: their options and help.

Decides nothing else. What a word does is in `words.py`, imported when it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewarm_cli.output import Form

Name = Annotated[str, typer.Argument(metavar="NAME", help="the run's name", show_default=False)]
Namespace = Annotated[
    str, typer.Option("-n", "--namespace", metavar="NAMESPACE", help="[default: the context's]", show_default=False)
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="context of the kubeconfig", show_default=False)
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="PATH", help="[default: as kubectl]", show_default=False)
]
Shown = Annotated[Form, typer.Option("-o", "--output", help="how the object is shown")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="30s, 10m, 1h30m [default: none]", show_default=False)
]
AnswerTimeout = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="how long the operator may take to answer")
]
WaitAnswer = Annotated[bool, typer.Option("--wait/--no-wait", help="wait for the operator's answer")]


def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="manifest of a run or a study; - reads it from standard input")
    ],
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="change one field, e.g. spec.replay.ratio=0.1; again for more"
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="instead of the manifest's")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="wait until it has ended; exits as `wait`")] = False,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="follow its logs, then exit as `wait`")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="let the API server check it, and keep nothing")] = False,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Submit a manifest to a cluster, or update its run.

    It is checked here first, all problems at once, then by the API server, strictly. A typo can be mended until the
    run's snapshot is taken; after that the experiment is immutable.
    """
    from rewarm_cli import words

    where = words.Where(namespace, context, kubeconfig)
    raise typer.Exit(words.submit(where, file, change or [], name, wait, follow, dry_run, output))


def status(
    name: Name,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="show it again at every change, until it ends")] = False,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Tell the story of a run on one screen; `study/NAME`: of a study."""
    from rewarm_cli import words

    raise typer.Exit(words.status(words.Where(namespace, context, kubeconfig), name, watch, output))


def list_runs(
    all_namespaces: Annotated[bool, typer.Option("-A", "--all-namespaces", help="of every namespace")] = False,
    selector: Annotated[str, typer.Option("-l", "--selector", metavar="LABELS", help="e.g. team=nlp")] = "",
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List runs, one line each."""
    from rewarm_cli import words

    where = words.Where(namespace, context, kubeconfig)
    raise typer.Exit(words.list_runs(where, all_namespaces, selector, output))


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="go on, into later attempts, until the run ends")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="this attempt only", show_default=False)
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, metavar="N", help="this node only", show_default=False)] = None,
    role: Annotated[
        str | None, typer.Option(metavar="ROLE", help="trainer or prepare only", show_default=False)
    ] = None,
    tail: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="the last N lines of each pod", show_default=False)
    ] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="say when each line was written")] = False,
    prefix: Annotated[bool, typer.Option("--prefix/--no-prefix", help="say who wrote each line: a2/0 |")] = True,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what a run's pods write, across attempts and ranks.

    Lines begin with who wrote them: `prepare |`, or `a2/0 |` for attempt 2, node 0.
    """
    from rewarm_cli import words

    where = words.Where(namespace, context, kubeconfig)
    raise typer.Exit(words.logs(where, name, follow, attempt, rank, role, tail, timestamps, prefix))


def events(
    name: Name,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="go on with later ones")] = False,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what happened to a run, its Jobs and its pods."""
    from rewarm_cli import words

    raise typer.Exit(words.events(words.Where(namespace, context, kubeconfig), name, watch, output))


def wait(
    name: Name,
    condition: Annotated[
        str, typer.Option("--for", metavar="WHAT", help="condition=TYPE[=STATUS], or delete")
    ] = "condition=Succeeded",
    timeout: Timeout = None,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait until a run has succeeded.

    Exits 0 when the condition came, 1 when the run ended without it, 124 when --timeout came first.
    """
    from rewarm_cli import words

    raise typer.Exit(words.wait(words.Where(namespace, context, kubeconfig), name, condition, timeout, output))


def suspend(
    name: Name,
    wait: Annotated[
        bool, typer.Option("--wait", help="until its attempt has committed a checkpoint and ended")
    ] = False,
    timeout: Timeout = None,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Stop a run's pods after a checkpoint; nothing is lost."""
    from rewarm_cli import words

    raise typer.Exit(words.suspend(words.Where(namespace, context, kubeconfig), name, wait, timeout, output))


def resume(
    name: Name,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let a suspended run go on from its newest checkpoint."""
    from rewarm_cli import words

    raise typer.Exit(words.resume(words.Where(namespace, context, kubeconfig), name, output))


def promote(
    name: Name,
    version: Annotated[str, typer.Option("--version", metavar="N", help="[default: this run's]")] = "",
    wait: WaitAnswer = True,
    timeout: AnswerTimeout = "2m",
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Give the alias to a run's model, by your judgement.

    The operator moves it and answers; gates promote by themselves when they pass.
    """
    from rewarm_cli import words

    where = words.Where(namespace, context, kubeconfig)
    raise typer.Exit(words.promote(where, name, version, wait, timeout, output))


def rollback(
    name: Name,
    to: Annotated[
        str, typer.Option("--to", metavar="VERSION", help="[default: the one that was promoted before this run's]")
    ] = "",
    wait: WaitAnswer = True,
    timeout: AnswerTimeout = "2m",
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Give the alias back to an older version of the model."""
    from rewarm_cli import words

    where = words.Where(namespace, context, kubeconfig)
    raise typer.Exit(words.rollback(where, name, to, wait, timeout, output))


def delete(
    name: Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="until its Jobs are gone")] = True,
    timeout: Timeout = None,
    output: Shown = Form.TABLE,
    namespace: Namespace = "",
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a run; its checkpoints and registered models stay."""
    from rewarm_cli import words

    raise typer.Exit(words.delete(words.Where(namespace, context, kubeconfig), name, wait, timeout, output))


def add_to(app: typer.Typer) -> None:
    """Register the words, in the order in which a run meets them."""
    for word in (submit, status, list_runs, logs, events, wait, suspend, resume, promote, rollback, delete):
        app.command(name=word.__name__.removesuffix("_runs"))(word)
