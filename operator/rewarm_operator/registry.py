"""The operator's side of MLflow: the run's identity, the registered version, the alias, the terminal status.

The only talker to MLflow, and the only writer of aliases. Off the event loop, in one thread; every step finds what is
there before it makes anything, so doing a Track twice is the same as once. What came out goes back by `answer`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rewarm_operator.actions import Track
from rewarm_operator.observed import Registry

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger("rewarm.registry")

UID_TAG = "rewarm.dev/run-uid"
PROMOTED_TAG = "rewarm.dev/promoted"
"""On a model version: the alias that an operator gave it."""
_ENVIRONMENT = {  # read by mlflow when it is imported or first used; what an administrator set already stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "AWS_",
    "DATABRICKS_",
)
_NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_VALUE_LIMIT = 5000
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEEPEST = 6
_WAITING = 4096
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 120.0


class RegistryWorker:
    """`submit` from the event loop; `run` works the queue off. `answer(uid, registry)` is called in the event loop.

    `known(uid)`: what was answered so far; None: the run is gone. `ask_again(uid)` is called when what failed may be
    tried again: the run is decided anew, since the ask may have been changed or withdrawn meanwhile. `own`: the server
    that the administrator named, the only one that gets the operator's credentials.
    """

    def __init__(
        self,
        known: Callable[[str], Registry | None],
        answer: Callable[[str, Registry], None],
        ask_again: Callable[[str], None],
        *,
        own: str = "",
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self._known, self._answer, self._ask_again = known, answer, ask_again
        self._own = own
        self._first_wait = first_wait
        self._queue: asyncio.Queue[tuple[str, Track]] = asyncio.Queue(_WAITING)
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._servers: dict[str, Server] = {}
        # One thread: MLflow's client is slow, and one slow server must not take every thread of the process.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def submit(self, uid: str, track: Track) -> None:
        """Bring MLflow to this state, unless that runs already or failed a moment ago. Never waits."""
        if not track.uri or uid in self._busy or time.monotonic() < self._not_before.get(uid, 0.0):
            return
        try:
            self._queue.put_nowait((uid, track))
        except asyncio.QueueFull:
            return  # It is asked for again at the next visit.
        self._busy.add(uid)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            uid, track = await self._queue.get()
            known = self._known(uid) or Registry()
            registry = await loop.run_in_executor(self._thread, self._do, known, track)
            self._busy.discard(uid)
            if registry.problem:
                failures = self._failures[uid] = self._failures.get(uid, 0) + 1
                wait = min(_LONGEST_WAIT, self._first_wait * 2 ** min(failures - 1, 8)) * random.uniform(0.7, 1.0)
                self._not_before[uid] = time.monotonic() + wait
                log.warning("MLflow of run %s: %s; again in %.0f s", track.run_name, registry.problem, wait)
                # The answer says the same as before when it fails in the same way: then nobody asks again by itself.
                loop.call_later(wait, self._waited, uid)
            else:
                self._failures.pop(uid, None)
                self._not_before.pop(uid, None)
            self._answer(uid, registry)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _waited(self, uid: str) -> None:
        self._not_before.pop(uid, None)
        if self._known(uid) is None:
            self._failures.pop(uid, None)
        elif uid in self._failures:
            self._ask_again(uid)

    def _do(self, known: Registry, track: Track) -> Registry:
        """In the thread. Never raises: what went wrong is in `problem`, what was done before it stays."""
        server = self._servers.get(track.uri)
        if server is None:
            server = self._servers[track.uri] = Server(track.uri)
        steps = Steps(server, replace(known, problem=""), track)
        try:
            with credentials_for(track.uri, self._own):
                steps.all()
        except Exception as error:
            own = urlsplit(track.uri)[:2] == urlsplit(self._own)[:2]
            return replace(steps.registry, problem=server.problem(_line(error) if own else kind_of(error)))
        return steps.registry


@contextmanager
def credentials_for(uri: str, own: str) -> Iterator[None]:
    """Takes the operator's credentials out of the environment where `uri` is not on the administrator's server.

    MLflow sends them to whatever address it is given, and a run's manifest may give any.
    """
    if urlsplit(uri)[:2] == urlsplit(own)[:2]:
        yield
        return
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_CREDENTIALS)}
    try:
        yield
    finally:
        os.environ.update(kept)


class Steps:
    """One Track, step by step; `registry` is what is known so far."""

    def __init__(self, server: Server, known: Registry, track: Track) -> None:
        self._server, self._track = server, track
        self.registry = known

    def all(self) -> None:
        self._identify()
        version = self._track.version or self._register()
        if self._track.alias and version:
            self._promote(version)
        if self._track.end:
            self._end()

    def _identify(self) -> None:
        run = self._server.run(self._track, self.registry.run_id)
        run_id = _identifier(run.info.run_id)
        self._server.describe(run, self._track.tags)
        url = self._server.page(_identifier(run.info.experiment_id), run_id)
        ended = str(run.info.status) if str(run.info.status) in ("FINISHED", "FAILED", "KILLED") else ""
        self.registry = replace(self.registry, run_id=run_id, url=url, ended=ended)

    def _register(self) -> str:
        if not (self._track.model and self._track.source):
            return ""
        version = _identifier(self._server.register(self.registry.run_id, self._track))
        self.registry = replace(self.registry, model_version=version)
        return version

    def _promote(self, version: str) -> None:
        """A version is promoted by itself only once: people may have moved the alias since, and a run that is made
        again (a cluster rebuilt) finds its old verdict and its old version."""
        ask, model = self._track.ask, self._track.model
        if not ask and self._server.was_promoted(model, version):
            current = self._server.version_of(model, self._track.alias)
            current = current and _identifier(current)
            self.registry = replace(self.registry, promoted_alias=self._track.alias, promoted_version=current)
            return
        try:
            self._server.set_alias(self._track.model, self._track.alias, version)
        except Exception as error:
            if not ask or _code(error) != _NOT_THERE:
                raise
            # A person named a version that is not there: trying again would not make it.
            self.registry = replace(self.registry, promoted_alias="", promoted_version="", answered=ask)
            return
        self._server.client.set_model_version_tag(model, version, PROMOTED_TAG, self._track.alias)
        alias = self._track.alias
        self.registry = replace(self.registry, promoted_alias=alias, promoted_version=version, answered=ask)

    def _end(self) -> None:
        if self.registry.ended != self._track.end:
            self._server.client.set_terminated(self.registry.run_id, self._track.end)
            self.registry = replace(self.registry, ended=self._track.end)


class Server:
    """One MLflow server, by its REST interface."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        scheme, separator, rest = uri.partition("://")
        who, at, where = rest.rpartition("@")
        self.name, self._credentials = scheme + separator + where, who + at or "\0"
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            # Two seconds and 60 MB that an operator without tracking never pays.
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        return self._client

    def run(self, track: Track, run_id: str) -> Any:
        """The run of this uid: by id, by tag, or made; of several (a race long ago) the oldest."""
        if run_id:
            try:
                run = self.client.get_run(run_id)
            except Exception as error:
                if _code(error) != _NOT_THERE:
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        experiment = self._experiment(track.experiment)
        found = self.client.search_runs(
            [experiment], f"tags.`{UID_TAG}` = '{track.uid}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        if found:
            return found[0]
        return self.client.create_run(
            experiment, tags={UID_TAG: track.uid, "mlflow.source.name": "rewarm"}, run_name=track.run_name
        )

    def describe(self, run: Any, tags: Mapping[str, str]) -> None:
        """Tags as they are now."""
        from mlflow.entities import RunTag

        wanted = {name: str(text)[:_VALUE_LIMIT] for name, text in tags.items()}
        changed = [RunTag(name, text) for name, text in wanted.items() if run.data.tags.get(name) != text]
        if changed:
            self.client.log_batch(run.info.run_id, tags=changed[:100])

    def register(self, run_id: str, track: Track) -> str:
        """The version of `model` that stands for (run, source): found or made."""
        try:
            self.client.create_registered_model(track.model)
        except Exception as error:
            if _code(error) != _EXISTS:
                raise
        tags = {name: str(text)[:_VALUE_LIMIT] for name, text in (track.version_tags or {}).items()}
        for known in self.client.search_model_versions(f"run_id = '{run_id}'"):
            if known.name == track.model and known.source == track.source:
                present = known.tags or {}
                for name, text in tags.items():
                    if present.get(name) != text:
                        self.client.set_model_version_tag(track.model, known.version, name, text)
                return str(known.version)
        made = self.client.create_model_version(track.model, track.source, run_id=run_id, tags=tags)
        return str(made.version)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Point the alias at the version. Raises for a version that does not exist: MLflow would not."""
        self.client.get_model_version(model, version)
        if self.version_of(model, alias) != version:
            self.client.set_registered_model_alias(model, alias, version)

    def version_of(self, model: str, alias: str) -> str:
        """The version that has the alias; empty: none."""
        try:
            return str(self.client.get_model_version_by_alias(model, alias).version)
        except Exception as error:
            if _code(error) not in (_NOT_THERE, "INVALID_PARAMETER_VALUE"):
                raise
            return ""

    def was_promoted(self, model: str, version: str) -> bool:
        """Whether the version once got an alias from an operator. Raises for a version that does not exist."""
        return PROMOTED_TAG in (self.client.get_model_version(model, version).tags or {})

    def problem(self, text: str) -> str:
        """What MLflow said, without the credentials: it often tells the whole address."""
        return f"{self.name}: {text.replace(self._credentials, '')}"[:400]

    def page(self, experiment_id: str, run_id: str) -> str:
        """Where people look the run up; empty for a store that is no server."""
        if not self.name.startswith(("http://", "https://")):
            return ""
        return f"{self.name.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def _experiment(self, name: str) -> str:
        if name in self._experiments:
            return self._experiments[name]
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        if found is None:
            try:
                made = str(self.client.create_experiment(name))
            except Exception as error:
                if _code(error) != _EXISTS:  # a trainer, or another run of the same experiment, was faster
                    raise
                found = self.client.get_experiment_by_name(name)
            else:
                self._experiments[name] = made
                return made
        self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]


def kind_of(error: BaseException) -> str:
    """What kind of failure it is, without a word of the answer: authors may name any address, of inner servers too."""
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

    code = getattr(error, "error_code", None)
    words = [type(error).__name__]
    if code in ERROR_CODE_TO_HTTP_STATUS:
        words.append(f"{code} ({ERROR_CODE_TO_HTTP_STATUS[code]})")
    # What MLflow wraps, and what its client of HTTP wraps in turn: the innermost one says whether anybody was there.
    inner = error.__cause__ or error.__context__
    while inner is not None and len(words) < _DEEPEST:
        words.append(type(inner).__name__)
        inner = inner.__cause__ or inner.__context__
    return f"{', '.join(words)}; what it answered is not shown, it is not the server of the chart's tracking.uri"


def _identifier(value: Any) -> str:
    """An id as MLflow makes them; it is shown, so it must not be whatever a server says."""
    text = str(value)
    if not _IDENTIFIER.fullmatch(text):
        raise NotAnIdentifier
    return text


class NotAnIdentifier(Exception):
    """A server answered with an id that no MLflow makes."""


def _code(error: Exception) -> str | None:
    """MLflow's name of an error; None when something else failed (a connection, a bug)."""
    return getattr(error, "error_code", None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
