"""The client that people use from Python, and every command from the shell: the same words for a cluster and a laptop.

    from rewarm_cli.client import Kubernetes, RewarmClient

    client = RewarmClient(backend=Kubernetes(namespace="research"))
    run = client.submit("llama-pubmed.yaml")
    print(client.wait(run.name).status.gain)

Decides how long to wait and which older version a rollback means; everything else is asked of the backend.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rewarm_api.errors import ManifestError, MissingInputError, Problem, RewarmError
from rewarm_cli.durations import short
from rewarm_cli.kubernetes_backend import Kubernetes
from rewarm_cli.local_backend import Local
from rewarm_cli.logs import Selection
from rewarm_cli.records import PROMOTE, LogLine, Run, RunEvent
from rewarm_cli.watching import DeadlineError

__all__ = ["Kubernetes", "Local", "LogLine", "RewarmClient", "Run", "RunEvent", "WaitTimeoutError"]

ANSWER_SECONDS = 120.0
"""How long the operator is given to answer a promotion."""


class WaitTimeoutError(RewarmError):
    """What was waited for did not come in the given time (124, as `timeout` of coreutils)."""

    exit_code = 124
    cause = "Unknown"


class Backend(Protocol):
    """Where runs live."""

    @property
    def local(self) -> bool: ...
    def submit(self, document: Mapping[str, Any], folder: Path, *, dry_run: bool) -> Run: ...
    def list(self, *, all_namespaces: bool, selector: str) -> builtins.list[Run]: ...
    def get(self, name: str) -> Run: ...
    def watch(self, name: str, *, timeout: float | None = None) -> Iterator[Run | None]: ...
    def logs(self, name: str, selection: Selection, *, follow: bool, tail: int | None) -> Iterator[LogLine]: ...
    def events(self, name: str, *, follow: bool) -> Iterator[RunEvent]: ...
    def suspend(self, name: str) -> Run: ...
    def resume(self, name: str) -> Run: ...
    def promote(self, name: str, version: str = "") -> Run: ...
    def delete(self, name: str) -> Run: ...


class RewarmClient:
    """Submits, watches and ends runs. Without a backend: the cluster of the current context.

    Errors are `rewarm_api.errors`: ManifestError (refused), MissingInputError (not there), DependencyError (away).
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend: Backend = Kubernetes() if backend is None else backend

    def submit(
        self,
        manifest: str | Path | Mapping[str, Any],
        *,
        changes: Sequence[str] = (),
        name: str = "",
        dry_run: bool = False,
    ) -> Run:
        """Create the run, or update it; `action` of the answer says which. Validated here first, all problems at once.

        `manifest`: a file, or its content. `changes`: `path=value`, as `--set`. `name` instead of the manifest's.
        """
        from rewarm_api.reading import without_nulls
        from rewarm_api.validate import validate
        from rewarm_cli import document

        content = dict(manifest) if isinstance(manifest, Mapping) else document.read(Path(manifest))
        document.change(content, changes)
        if name:
            content["metadata"] = {**(content.get("metadata") or {}), "name": name}
        validation = validate(content, local=self.backend.local)
        if not validation.valid:
            raise ManifestError(validation.problems)
        folder = Path.cwd() if isinstance(manifest, Mapping) else Path(manifest).absolute().parent
        return self.backend.submit(without_nulls(content), folder, dry_run=dry_run)

    def list(self, *, all_namespaces: bool = False, selector: str = "") -> builtins.list[Run]:
        """Runs by namespace and name; `selector` is a label selector."""
        return self.backend.list(all_namespaces=all_namespaces, selector=selector)

    def get(self, name: str) -> Run:
        """The run as it stands. Raises MissingInputError, with the name that was perhaps meant."""
        return self.backend.get(name)

    def watch(self, name: str, *, timeout: float | None = None) -> Iterator[Run | None]:
        """The run now and after every change; None once it is deleted. Raises WaitTimeoutError."""
        try:
            yield from self.backend.watch(name, timeout=timeout)
        except DeadlineError:
            raise WaitTimeoutError(f"run {name}: not there yet after {short(timeout or 0)}") from None

    def wait(
        self,
        name: str,
        *,
        condition: str = "Succeeded",
        status: str = "True",
        timeout: float | None = None,
        on_change: Callable[[Run], None] | None = None,
    ) -> Run:
        """The run once the condition has this status, or once the run has ended without ever reaching it.

        Raises WaitTimeoutError after `timeout` seconds, MissingInputError when the run is not there or is deleted.
        """
        for run in self.watch(name, timeout=timeout):
            if run is None:
                break
            if on_change is not None:
                on_change(run)
            if run.finished or run.truth(condition) == status:
                return run
        raise MissingInputError(f"run {name}: deleted while it was waited for; submit it again")

    def wait_deleted(self, name: str, *, timeout: float | None = None) -> None:
        """Returns once no run has this name."""
        try:
            for run in self.watch(name, timeout=timeout):
                if run is None:
                    return
        except MissingInputError:
            return

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        attempt: int | None = None,
        rank: int | None = None,
        role: str | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine]:
        """Lines of every attempt and rank; `follow` goes on into later attempts until the run has ended.

        `role`: trainer or prepare; `tail`: that many last lines of each pod.
        """
        yield from self.backend.logs(name, Selection(attempt, rank, role), follow=follow, tail=tail)

    def events(self, name: str, *, follow: bool = False) -> Iterator[RunEvent]:
        """What happened to the run, its Jobs and its pods, oldest first."""
        yield from self.backend.events(name, follow=follow)

    def suspend(self, name: str) -> Run:
        """Ask for a checkpoint and an end of the attempt; the condition Suspended says when that is done."""
        return self.backend.suspend(name)

    def resume(self, name: str) -> Run:
        """Go on from the newest checkpoint, in a new attempt."""
        return self.backend.resume(name)

    def promote(
        self, name: str, *, version: str = "", wait: bool = True, timeout: float | None = ANSWER_SECONDS
    ) -> Run:
        """Give the alias to this run's model, or to `version` of it, and wait for the answer (status.promotion).

        Raises ManifestError before the run has ended, MissingInputError when it has registered nothing,
        WaitTimeoutError when nobody answers. `moved` says whether the answer was yes.
        """
        before = self.get(name)
        if not before.finished:
            raise ManifestError(
                Problem(f"run {name}", f"a run that has not ended ({before.summary})", "its verdict", "wait for it")
            )
        tracking = before.status.tracking
        if not version and not (tracking and tracking.model_version):
            raise MissingInputError(
                f"run {name}: nothing registered yet (status.tracking.modelVersion is empty); "
                "wait until it has, or name a version"
            )
        asked = self.backend.promote(name, version)
        if not wait or PROMOTE not in asked.annotations:
            return asked
        try:
            for run in self.backend.watch(name, timeout=timeout):
                if run is None:
                    raise MissingInputError(f"run {name}: deleted before its promotion was answered")
                if PROMOTE not in run.annotations:
                    return run
        except DeadlineError:
            pass
        raise WaitTimeoutError(
            f"run {name}: the operator has not answered within {short(timeout or 0)}; it is still asked "
            "(annotation rewarm.dev/promote): is the operator running, and does it reach MLflow?"
        )

    @staticmethod
    def moved(run: Run, version: str = "") -> bool:
        """Whether the alias is on that version (default: the run's own), by the newest answer to a promotion."""
        promotion, tracking = run.status.promotion, run.status.tracking
        if promotion is None:
            return False
        own = tracking.model_version if tracking else ""
        if version in ("", own) and promotion.promoted:
            return True
        return re.search(rf"\bis version {re.escape(version or own)}\b", promotion.reason) is not None

    def rollback(self, name: str, *, to: str = "", wait: bool = True, timeout: float | None = ANSWER_SECONDS) -> Run:
        """Give the alias to an older version: `to`, else the newest older one that another run had promoted."""
        return self.promote(name, version=to or self.earlier_version(name), wait=wait, timeout=timeout)

    def earlier_version(self, name: str) -> str:
        """The newest promoted version of the same model that is older than this run's, by what runs say of themselves.

        Raises MissingInputError when no other run tells of one.
        """
        run = self.get(name)
        own = run.status.tracking.model_version if run.status.tracking else ""
        versions = [
            int(other.status.tracking.model_version)
            for other in self.list()
            if other.uid != run.uid
            and other.registered_model == run.registered_model
            and other.status.promotion
            and other.status.promotion.promoted
            and other.status.tracking
            and other.status.tracking.model_version.isdigit()
        ]
        older = [version for version in versions if not own.isdigit() or version < int(own)]
        if not older:
            raise MissingInputError(
                f"model {run.registered_model}: no other run tells of an older version that was promoted; "
                "name one (rollback --to VERSION)"
            )
        return str(max(older))

    def delete(self, name: str) -> Run:
        """End it and take it away; its checkpoints and registered models stay. The answer is the run as it was."""
        return self.backend.delete(name)
