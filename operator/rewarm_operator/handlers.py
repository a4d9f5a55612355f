"""kopf, kept small: it watches ContinualRuns and MixtureStudies and tells each event. It writes nothing, anywhere.

It runs in a thread with an event loop of its own, because when it ends (an error in a watch, a CRD that goes away) it
cancels every task of its loop; here it is then simply started again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rewarm_operator.absent import absent
from rewarm_operator.cluster import BOOKMARK_SECONDS, Access, Credentials
from rewarm_operator.resources import RUN, STUDY, Resource

# Where it is installed, kopf imports it, only to recognise its models: 40 MB for nothing that happens here.
with absent("kubernetes"):
    import kopf

log = logging.getLogger("rewarm.kopf")

Json = dict[str, Any]

_BACKOFFS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class Backoffs:
    """Waiting times of kopf's requests, without end: by default it gives up, and the process ends, after 54 s."""

    def __iter__(self) -> Iterator[float]:
        for seconds in itertools.chain(_BACKOFFS, itertools.repeat(_BACKOFFS[-1])):
            yield seconds * random.uniform(0.5, 1.0)


class NoDifferences(kopf.DiffBaseStorage):
    """Nothing is compared with what was handled last: kopf would otherwise copy every object twice per event."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Never: nothing of ours goes into users' objects."""


class NoProgress(kopf.ProgressStorage):
    """No handler leaves anything to remember."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        """Never."""

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        """Nothing was stored."""

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        """Never."""

    def clear(self, *, essence: Any) -> Any:
        return essence


def settings(watch_seconds: int) -> kopf.OperatorSettings:
    """kopf as operator.md wants it: patient, blind to everything but runs and studies, and silent on users' objects."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.peering.standalone = True
    made.networking.error_backoffs = Backoffs()
    made.networking.request_timeout = 30.0
    made.networking.connect_timeout = 5.0
    made.watching.server_timeout = watch_seconds
    made.watching.client_timeout = watch_seconds + 10.0
    made.watching.connect_timeout = 5.0
    made.watching.inactivity_timeout = min(BOOKMARK_SECONDS, watch_seconds + 5.0)
    made.watching.chunk_size = 500
    made.queueing.idle_timeout = 1.0
    made.persistence.diffbase_storage = NoDifferences()
    made.persistence.progress_storage = NoProgress()
    return made


def self_contained_kubeconfig() -> Credentials | None:
    """Of the current context; None when it asks for a plugin, for a token's file, or for paths relative to the file."""
    info = kopf.login_with_kubeconfig(settings=kopf.OperatorSettings())
    if info is None:
        return None
    header = info.as_http_headers().get("Authorization", "")
    certificate, key = info.certificate_path or info.certificate_data, info.private_key_path or info.private_key_data
    paths = [str(path) for path in (info.ca_path, info.certificate_path, info.private_key_path) if path]
    if not (header or (certificate and key)) or not all(map(os.path.isabs, paths)):
        return None
    return Credentials(info.server, info.as_ssl_context(), header)


class Watch:
    """kopf's thread. `tell(kind, type, object)` is called in the loop that made this, for every event of what is
    watched.

    type: None for what was there at the start, ADDED, MODIFIED or DELETED.
    """

    def __init__(
        self,
        access: Access,
        namespaces: Sequence[str],
        watch_seconds: int,
        tell: Callable[[str, str | None, Json], None],
        watched: Sequence[Resource] = (RUN, STUDY),
    ) -> None:
        self._access, self._namespaces, self._watch_seconds = access, tuple(namespaces), watch_seconds
        self._tell, self._watched = tell, tuple(watched)
        self._heard: deque[tuple[str, str | None, Json]] = deque()
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it is a daemon, nothing waits for it."""
        self._stop.set()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        for failures in itertools.count(1):
            try:
                asyncio.run(self._operator())
            except Exception as error:
                log.warning("the watch of runs and studies ended: %s", error)
            if self._stop.wait(min(30.0, 0.5 * 2 ** min(failures, 6)) * random.uniform(0.5, 1.0)):
                return

    async def _operator(self) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=settings(self._watch_seconds),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
        )

    def _hand_over(self) -> None:
        """In the loop that made this: everything heard since the last time. One wake-up serves many events."""
        while self._heard:
            self._tell(*self._heard.popleft())

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def login(**_: Any) -> kopf.AiohttpSession:
            await self._access.renew()
            return kopf.AiohttpSession(aiohttp_session=self._access.session(0), server=self._access.server)

        kopf.on.login(registry=registry)(login)
        for resource in self._watched:
            group, version = resource.version.split("/")
            kopf.on.event(group, version, resource.plural, id=resource.plural, registry=registry)(self._of(resource))
        return registry

    def _of(self, resource: Resource) -> Callable[..., Any]:
        async def told(event: Mapping[str, Any], **_: Any) -> None:
            self._heard.append((resource.kind, event["type"], event["object"]))
            if len(self._heard) == 1:
                self._loop.call_soon_threadsafe(self._hand_over)

        return told
