"""The operator as a process: settings, parts put together, health, a clean end. Decides nothing about runs.

Exit codes: 0 asked to end, 64 wrong settings, 75 the Lease was lost or a service is missing, 70 a mistake of ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from rewarm_api.errors import DependencyError, RewarmError
from rewarm_operator import environment
from rewarm_operator.cluster import Access, ApiError, HttpCluster
from rewarm_operator.environment import Configuration
from rewarm_operator.executor import Executor
from rewarm_operator.guard import GuardedSite
from rewarm_operator.handlers import Watch, self_contained_kubeconfig
from rewarm_operator.informers import LONGEST_WATCH_SECONDS, Informers
from rewarm_operator.lease import LeaderLease
from rewarm_operator.metrics import CONTENT_TYPE, Metrics, Sources
from rewarm_operator.progress import Certificate, ProgressServer
from rewarm_operator.queue import Queue
from rewarm_operator.reconcile import decide
from rewarm_operator.recorder import EventRecorder
from rewarm_operator.registry import RegistryWorker
from rewarm_operator.resources import RUN, STUDY
from rewarm_operator.server_time import SERVER
from rewarm_operator.store import Key, Store
from rewarm_operator.studying import decide_study
from rewarm_operator.visitor import Visitor

log = logging.getLogger("rewarm.operator")

_CRD_SECONDS = 5.0
_DRAIN_SECONDS = 5.0
_STUDY_VISITS = 2
"""At once: there are few studies, and their runs come first."""


class Operator:
    """Every part, made inside the running event loop."""

    def __init__(self, configuration: Configuration, access: Access) -> None:
        self.configuration, self.settings = configuration, configuration.settings
        settings = self.settings
        identity = settings.identity or f"{socket.gethostname()}-{os.getpid()}"
        self.synced = False
        self.cluster = HttpCluster(access, lambda: self.lease.holds())
        self.lease = LeaderLease(
            self.cluster, settings.operator_namespace, settings.lease_name, identity, settings.lease_seconds
        )
        self.store = Store(lambda key: self.queue.add(key), on_study_change=lambda key: self.studies.add(key))
        self.recorder = EventRecorder(self.cluster, identity)
        self.registry = RegistryWorker(
            self.store.registry,
            self.store.tracked,
            self.store.look_again,
            own=configuration.settings.default_tracking_uri,
        )
        executor = Executor(self.cluster, self.store, self.recorder, self.registry.submit)
        self.metrics = Metrics(
            Sources(
                depth=lambda: self.queue.depth + self.studies.depth,
                leading=lambda: self.lease.holds(),
                requests=lambda: dict(self.cluster.requests),
                runs=lambda: list(self.store.runs.values()),
                heartbeats=lambda: {uid: beat.received for uid, beat in self.store.heartbeats().items()},
            )
        )
        self.visitor = Visitor(self.store.observe, executor, settings, decide, self.metrics.took)
        self.queue: Queue[Key] = Queue(self.visitor.visit)
        study_executor = Executor(self.cluster, self.store, self.recorder, self.registry.submit, STUDY)
        study_visitor = Visitor(self.store.observe_study, study_executor, settings, decide_study, self.metrics.took)
        self.studies: Queue[Key] = Queue(study_visitor.visit, _STUDY_VISITS)
        self.informers = Informers(self.cluster, self.store, settings.namespaces, settings.resync_seconds)
        self.progress = ProgressServer(self.cluster, self.store, self.lease.holds)
        watch_seconds = max(1, min(LONGEST_WATCH_SECONDS, settings.resync_seconds))
        self.watch = Watch(access, settings.namespaces, watch_seconds, self._told)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. Raises what ended it otherwise."""
        servers = [await self._serve_health(), await self._serve_metrics()]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part) for part in (self._work(), self.recorder.run(), self.registry.run())]
                if self.configuration.certificate is not None:
                    servers.append(await self._serve_progress(group, tasks))
                await stop.wait()
                log.info("asked to end")
                await self._end()
                for task in tasks:
                    task.cancel()
        finally:
            await self.lease.release()
            self.registry.close()
            for server in servers:
                await server.cleanup()
            await self.cluster.close()

    async def _work(self) -> None:
        await self._await_crd()
        self.watch.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.informers.run())
            await self.informers.synced()
            # kopf does not say when it has listed runs and studies; the comparison lists them as well.
            await self._compare()
            self.synced = True
            log.info("synced: %d runs, %d studies", len(self.store.runs), len(self.store.studies))
            await self.lease.acquire()
            group.create_task(self.lease.keep())
            # What the operator before this one has just written must be seen before anything is decided.
            await self._compare()
            self.store.leading_since = SERVER.now()
            for key in list(self.store.runs):
                self.queue.add(key)
            for key in list(self.store.studies):
                self.studies.add(key)
            self.queue.open()
            self.studies.open()

    async def _await_crd(self) -> None:
        """kopf looks for the kind once, at its start: it must be there by then."""
        group, version = RUN.version.split("/")
        told = False
        while True:
            try:
                if version in (await self.cluster.served()).get(group, []):
                    return
                if not told:
                    log.warning("%s is not served; waiting for the CRD (chart value crds.enabled)", RUN.version)
                    told = True
            except ApiError as error:
                log.warning("the API server does not answer: %s", error)
            await asyncio.sleep(_CRD_SECONDS)

    async def _compare(self) -> None:
        while True:
            try:
                await self.informers.compare()
                return
            except ApiError as error:
                log.warning("listing failed: %s; trying again", error)
                await asyncio.sleep(error.retry_after or 1.0)

    async def _end(self) -> None:
        """No new visit; those that run end, events leave, and the next operator may begin at once."""
        try:
            await asyncio.wait_for(asyncio.gather(self.queue.close(), self.studies.close()), _DRAIN_SECONDS)
        except TimeoutError:
            log.warning("a visit did not end in time; what it was doing is done again by the next operator")
        if self.lease.holds():
            await self.recorder.drain(_DRAIN_SECONDS / 2)
        await self.lease.release()
        self.watch.stop()

    def _told(self, kind: str, event: str | None, item: dict[str, Any]) -> None:
        if event == "DELETED":
            self.store.remove(kind, item)
        else:
            self.store.put(kind, item)

    # -- servers -------------------------------------------------------------------------------------------------------

    async def _serve_health(self) -> web.AppRunner:
        async def alive(_: web.Request) -> web.Response:
            return web.Response(text="ok\n")

        async def ready(_: web.Request) -> web.Response:
            # Leadership is not readiness: a rolling update would wait for ever for the new pod to lead.
            return web.Response(status=200 if self.synced else 503, text="ok\n" if self.synced else "not synced\n")

        application = web.Application()
        application.router.add_get("/healthz", alive)
        application.router.add_get("/readyz", ready)
        return await _serve(application, self.configuration.host, self.configuration.health_port)

    async def _serve_metrics(self) -> web.AppRunner:
        async def scrape(_: web.Request) -> web.Response:
            text = await asyncio.to_thread(self.metrics.text)
            return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

        application = web.Application()
        application.router.add_get("/metrics", scrape)
        return await _serve(application, self.configuration.host, self.configuration.metrics_port)

    async def _serve_progress(self, group: asyncio.TaskGroup, tasks: list[asyncio.Task[None]]) -> web.AppRunner:
        assert self.configuration.certificate is not None
        certificate = Certificate(*self.configuration.certificate)
        tasks.append(group.create_task(certificate.follow()))
        port = self.configuration.progress_port
        return await _serve(self.progress.application(), self.configuration.host, port, certificate.context)


async def _serve(
    application: web.Application, host: str | None, port: int, tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    """With TLS it is open to pods, and guarded. Raises DependencyError (75) when the port is taken."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await (GuardedSite(runner, host, port, tls) if tls else web.TCPSite(runner, host, port)).start()
    except OSError as error:
        raise DependencyError(f"port {port}: cannot listen on {host} ({error}); free it, or choose another") from error
    return runner


@dataclass
class OneLine(logging.Formatter):
    """One JSON object to a line: time, level, logger, message, and the trace of an error."""

    def __post_init__(self) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # kopf tells of every request that it tries again; what matters of it is in our own lines.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    # It misses the signals, which are ours to handle.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


async def serve(configuration: Configuration) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    began = time.monotonic()
    operator = Operator(configuration, await Access.load(self_contained_kubeconfig))
    await operator.run(stop)
    log.info("ended after %.0f s", time.monotonic() - began)


def main() -> int:
    """The exit code of the process."""
    log_to_stderr(os.environ.get("REWARM_LOG_LEVEL", "INFO").upper())
    try:
        asyncio.run(serve(environment.read(os.environ)))
    except Exception as error:
        return max(_exit_code(each) for each in _flat(error))
    return 0


def _exit_code(error: BaseException) -> int:
    """Tell the error, each problem on a line of its own."""
    if isinstance(error, RewarmError):
        for line in str(error).splitlines():
            log.critical("%s", line)
        return error.exit_code
    log.critical("the operator ends by a mistake of its own: %s", error, exc_info=error)
    return 70


def _flat(error: BaseException) -> list[BaseException]:
    """The errors of a group, or the one."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [each for part in error.exceptions for each in _flat(part)]
