"""MLflow, kept off the training thread. The only importer of mlflow (and only inside the courier's thread).

Decides how a run is found again and what is written on it; never what is measured. Training calls `log`, which
appends to the spool and returns; courier.py's thread does the rest.

Exactly once: MLflow's key of a point is (run, name, step, timestamp, value), all frozen when the point is made, so a
batch whose answer was lost is sent again without harm.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarm_api.errors import DependencyError, MissingInputError
from rewarm_trainer.courier import Courier, Finished, Trouble
from rewarm_trainer.files import beside
from rewarm_trainer.spool import Point, Spool

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

__all__ = ["Finished", "Tracker"]

UID_TAG = "rewarm.dev/run-uid"
STATUSES = ("FINISHED", "FAILED", "KILLED")
RATES = ("train/tokens_per_second",)

_ENVIRONMENT = {  # read by mlflow when it is imported or first used; what a user set already stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_METRICS_PER_BATCH = 1000  # MLflow's limits: this for metrics, the next for params and tags
_ENTRIES_PER_BATCH = 100
_VALUE_LIMIT = 5000  # characters; MLflow takes 6000 in params, 8000 in tags
_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", _EXISTS}


_LOADING = threading.Lock()
_MAKING = threading.Lock()


def load_mlflow() -> None:
    """Import MLflow whole. Two threads that begin its import at once would each find the other's half of it."""
    with _LOADING:
        import mlflow  # noqa: F401


class Tracker:
    """One MLflow run, fed from a spool on disk by one background thread."""

    def __init__(self, server: MlflowServer, spool: Spool, hold_seconds: float = 0.0) -> None:
        self._server = server
        self._spool = spool
        self._courier = Courier(server, spool, hold_seconds)

    @staticmethod
    def start(
        uri: str,
        experiment: str,
        run_name: str,
        uid: str,
        tags: Mapping[str, Any],
        params: Mapping[str, Any],
        spool: Path,
        artifact_root: Path | None = None,
        *,
        owned: bool = True,
        run_id: str | None = None,
        hold_seconds: float = 0.0,
    ) -> Tracker:
        """Begin, or go on with, the MLflow run of `uid`; returns at once, also when no server answers.

        The run is found again by the id in the spool's folder, else by its tag `rewarm.dev/run-uid`, else made.
        artifact_root: where a local (not served) MLflow keeps artifacts. hold_seconds: how long at most the thread
        stays still until `begin`: it imports mlflow, some seconds of the interpreter that the start has better use for.
        Not owned: the run is somebody else's to make and to end. It is waited for, by `run_id` or by its tag.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        local = not uri.startswith(("http://", "https://"))
        location = artifact_root.absolute().as_uri() if local and artifact_root is not None else None
        described = {**texts(tags), UID_TAG: uid, "mlflow.source.name": "rewarm"}
        identity = Identity(experiment, run_name, uid, described, texts(params), location, owned, run_id)
        return Tracker(MlflowServer(uri, identity), Spool(spool, once=RATES), hold_seconds)

    def begin(self) -> None:
        """The first step is made: from now on points may be sent."""
        self._courier.begin()

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None while no server was ever reached."""
        return self._spool.run_id

    @property
    def problem(self) -> str | None:
        """Why points are waiting, in one line; None while all goes well."""
        return self._courier.problem

    @property
    def pending(self) -> int:
        """Points that the server does not have yet."""
        return self._spool.pending

    def log(self, metrics: Mapping[str, float], tokens: int) -> None:
        """Record metrics at a token count. Numbers that are not finite are dropped. Never raises, never waits."""
        self._spool.append(metrics, tokens, int(time.time() * 1000))

    def flush(self, deadline_seconds: float = 30.0) -> bool:
        """Wait until everything logged so far has arrived; False when that took too long."""
        return bool(self._courier.wait(self._courier.submit(lambda run_id: True, "metrics wait"), deadline_seconds))

    def attach(self, path: Path) -> None:
        """Upload a small file (report, model card) as an artifact before the run ends; best effort, tried once."""
        self._courier.submit(
            lambda run_id: self._server.client.log_artifact(run_id, str(path)),
            f"{path.name} is not attached to the run",
            retry=False,
        )

    def register(
        self, model_name: str, source_uri: str, tags: Mapping[str, Any], *, deadline_seconds: float = 30.0
    ) -> str | None:
        """The version of `model_name` that stands for `source_uri`, made or found again; None when neither worked.

        A served MLflow takes no local paths as source: give checkpoints an s3:// address there.
        """
        described = texts(tags)
        errand = self._courier.submit(
            lambda run_id: self._server.register(run_id, model_name, source_uri, described),
            f"model {model_name} is not registered from {source_uri}",
        )
        version: str | None = self._courier.wait(errand, deadline_seconds)
        return version

    def set_alias(self, name: str, alias: str, version: str, *, deadline_seconds: float = 30.0) -> bool:
        """Point `alias` of the model `name` at `version`; False when that could not be done."""

        def move(run_id: str) -> bool:
            self._server.client.set_registered_model_alias(name, alias, version)
            return True

        errand = self._courier.submit(move, f"alias {alias} of model {name} is not moved to version {version}")
        return bool(self._courier.wait(errand, deadline_seconds))

    def finish(self, status: str, deadline_seconds: float = 30.0) -> Finished:
        """Deliver what waits, set the terminal status and stop the thread, all within the deadline.

        What could not be delivered stays in the spool: the next `start` on it sends it. Raises ValueError for a status
        that is not FINISHED, FAILED or KILLED.
        """
        if status not in STATUSES:
            raise ValueError(f"status: found {status!r}, expected one of {', '.join(STATUSES)}")
        return self._courier.finish(status, deadline_seconds)


class Untracked(Tracker):
    """No tracking server at all: nothing is kept, nothing is missing."""

    run_id = None
    problem = None
    pending = 0

    def __init__(self) -> None:
        return

    def begin(self) -> None:
        return

    def log(self, metrics: Mapping[str, float], tokens: int) -> None:
        return

    def flush(self, deadline_seconds: float = 30.0) -> bool:
        return True

    def attach(self, path: Path) -> None:
        return

    def register(
        self, model_name: str, source_uri: str, tags: Mapping[str, Any], *, deadline_seconds: float = 30.0
    ) -> str | None:
        return None

    def set_alias(self, name: str, alias: str, version: str, *, deadline_seconds: float = 30.0) -> bool:
        return False

    def finish(self, status: str, deadline_seconds: float = 30.0) -> Finished:
        return Finished(True, 0, "no tracking server")


@dataclass(frozen=True)
class Identity:
    """What names the MLflow run, and what is written on it once."""

    experiment: str
    run_name: str
    uid: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    artifact_location: str | None
    owned: bool = True
    run_id: str | None = None


class MlflowServer:
    """MLflow behind the courier's `Server`: a served one, or a database file in this process."""

    def __init__(self, uri: str, identity: Identity) -> None:
        self._uri = uri
        self._identity = identity
        self._client: MlflowClient | None = None
        scheme, separator, rest = uri.partition("://")
        self.name = scheme + separator + rest.rpartition("@")[2]  # without the credentials it may hold

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            load_mlflow()
            from mlflow.tracking import MlflowClient

            for chatty in ("mlflow", "alembic"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
            make_database(self._uri)
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client

    def open(self, remembered: str | None) -> str:
        """The id of the run, found by id, by tag or made; it is RUNNING and carries tags and params."""
        if not self._identity.owned:
            return self._await(remembered)
        run = self._by_id(remembered) or self._by_tag_or_new()
        run_id: str = run.info.run_id
        if run.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
        self._describe(run)
        return run_id

    def _await(self, remembered: str | None) -> str:
        """The run that somebody else makes for this uid. LookupError, tried again later, while there is none."""
        uid = self._identity.uid
        found = self._by_id(self._identity.run_id)
        if found is None:
            known = self._by_id(remembered)
            found = known if known and known.data.tags.get(UID_TAG) == uid else self._by_tag()
        if found is None:
            raise LookupError(f"no MLflow run carries the tag {UID_TAG} = {uid} yet; waiting for the operator")
        self._describe(found)
        run_id: str = found.info.run_id
        return run_id

    def _by_tag(self) -> Run | None:
        experiment = self.client.get_experiment_by_name(self._identity.experiment)
        if experiment is None:
            return None
        wanted = f"tags.`{UID_TAG}` = '{self._identity.uid}'"
        found = self.client.search_runs([experiment.experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _by_id(self, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except Exception as error:
            if _code(error) == _NOT_THERE:
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _by_tag_or_new(self) -> Run:
        uid, experiment = self._identity.uid, self._experiment()
        found = self.client.search_runs([experiment], f"tags.`{UID_TAG}` = '{uid}'", max_results=1)
        if found:
            return found[0]
        return self.client.create_run(experiment, tags={UID_TAG: uid}, run_name=self._identity.run_name)

    def _experiment(self) -> str:
        name = self._identity.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                location = self._identity.artifact_location
                return str(self.client.create_experiment(name, artifact_location=location))
            except Exception as error:
                if _code(error) != _EXISTS:  # another run of the same experiment was faster
                    raise
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _describe(self, run: Run) -> None:
        """Tags as they are now; params only where there are none yet, because MLflow never changes one."""
        from mlflow.entities import Param, RunTag

        tags = [RunTag(*tag) for tag in self._identity.tags.items() if run.data.tags.get(tag[0]) != tag[1]]
        params = [Param(*param) for param in self._identity.params.items() if param[0] not in run.data.params]
        for kind, entries in (("tags", tags), ("params", params)):
            for first in range(0, len(entries), _ENTRIES_PER_BATCH):
                self.client.log_batch(run.info.run_id, **{kind: entries[first : first + _ENTRIES_PER_BATCH]})

    def send(self, run_id: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in points]
        for first in range(0, len(metrics), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_BATCH])

    def holds(self, run_id: str, points: Sequence[Point]) -> bool:
        found = {(each.step, each.timestamp) for each in self.client.get_metric_history(run_id, points[0].name)}
        return all((point.step, point.timestamp) in found for point in points)

    def is_open(self, run_id: str) -> bool:
        return self._by_id(run_id) is not None

    def terminate(self, run_id: str, status: str) -> None:
        if self._identity.owned:
            self.client.set_terminated(run_id, status)

    def register(self, run_id: str, name: str, source: str, tags: Mapping[str, str]) -> str:
        """Find or make the model version of (run, source): doing it twice makes one."""
        try:
            self.client.create_registered_model(name)
        except Exception as error:
            if _code(error) != _EXISTS:
                raise
        for known in self.client.search_model_versions(f"run_id = '{run_id}'"):
            if known.name == name and known.source == source:
                for key, value in tags.items():
                    self.client.set_model_version_tag(name, known.version, key, value)
                return str(known.version)
        return str(self.client.create_model_version(name, source, run_id=run_id, tags=dict(tags)).version)

    def trouble(self, error: Exception) -> Trouble:
        if _code(error) == _NOT_THERE:
            return Trouble.LOST
        return Trouble.REFUSED if _code(error) in _REFUSALS else Trouble.AWAY


def make_database(uri: str) -> None:
    """Make the database file of a `sqlite:///` address beside its place, unless it exists.

    MLflow takes seconds to migrate a new one, never opens one again in which it was killed half-way, and cannot migrate
    two at a time: not in two processes, nor in two threads of one.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or "?" in uri or not path.name:
        return
    with _MAKING:
        if not path.exists():
            _make_database(path)


def _make_database(path: Path) -> None:
    load_mlflow()
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        client = MlflowClient(tracking_uri=f"sqlite:///{temporary}", registry_uri=f"sqlite:///{temporary}")
        client._tracking_client.store.engine.dispose()
        with suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags and params as MLflow takes them: text, not longer than its limit, missing values left out."""
    return {str(name): str(value)[:_VALUE_LIMIT] for name, value in values.items() if value is not None}


def _code(error: Exception) -> str | None:
    """MLflow's name of an error; None when something else failed (a connection, a disk, a bug)."""
    return getattr(error, "error_code", None)


def model_source(uri: str, model: str, alias: str | None, version: str | None) -> tuple[str, str]:
    """(version, source) of a registered model: by `version`, else by `alias`. Read only, waits for the server.

    Raises MissingInputError (66) when the registry has no such version, DependencyError (75) when it does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    load_mlflow()
    from mlflow.tracking import MlflowClient

    wanted = f"version {version}" if version else f"alias {alias}"
    try:
        make_database(uri)
        client = MlflowClient(uri, uri)
        found = client.get_model_version(model, version) if version else client.get_model_version_by_alias(model, alias)
    except Exception as error:  # MLflow's own, or whatever the library of a database file raises
        if _code(error) in (_NOT_THERE, "INVALID_PARAMETER_VALUE"):
            raise MissingInputError(
                f"spec.baseModel.mlflow: {model} has no {wanted} at {uri}; correct it, or register the model first"
            ) from error
        raise DependencyError(
            f"spec.baseModel.mlflow: {uri} does not answer ({str(error).splitlines()[0][:200]}); start the same "
            "command again when it does"
        ) from error
    return str(found.version), str(found.source)
