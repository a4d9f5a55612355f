"""The server that trainers report to: HTTPS, one POST per report, believed only from the right pod.

Who posts is told by the token alone: it is reviewed by the API server for this run's own audience, and the pod it is
bound to must be, in the store, alive and rank 0 of the run's newest attempt (before the first: its preparation). What
is posted is read as if by an enemy. Only the active operator takes reports; a standby answers 503, and trainers try
again. What a token says of itself is enough to turn it away: only one that could be good costs the API server a review,
and an address whose tokens were not is asked to wait (guard.py has the shares).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from rewarm_api.reported import MAXIMUM_BODY, ReportError, read_report
from rewarm_operator.cluster import ApiError, Cluster
from rewarm_operator.guard import Allowance, claimed_pod, is_hopeless, unverified_claims
from rewarm_operator.observed import Heartbeat
from rewarm_operator.resources import ATTEMPT_LABEL, ROLE_LABEL, TOKEN_REVIEW
from rewarm_operator.server_time import SERVER
from rewarm_operator.store import Store

log = logging.getLogger("rewarm.progress")

Json = dict[str, Any]

INDEX = "batch.kubernetes.io/job-completion-index"
POD_UID = "authentication.kubernetes.io/pod-uid"
_LONGEST_TOKEN = 8192
_TRUSTED_SECONDS, _DISTRUSTED_SECONDS = 60.0, 10.0
_REMEMBERED = 8192
_REVIEWS = 8
_BURST, _PER_SECOND = 20.0, 1.0
_STANDBY_SECONDS = "5"
_NOT_VALID = "the token is not valid for this run"
BODY_SECONDS = 10.0
"""How long a body may take; reports have some kilobytes."""


class Reviewer:
    """Whose token this is: the uid of the pod that it is bound to, or nobody. Remembered for a short time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._reviews = asyncio.Semaphore(_REVIEWS)

    def knows(self, token: str, audience: str) -> bool:
        """Whether this needs no review now."""
        known = self._known.get(_digest(token, audience))
        return known is not None and time.monotonic() < known[1]

    async def pod(self, token: str, audience: str) -> str:
        """Uid of the pod; empty: the token is not valid for this audience, or is of no pod. Raises ApiError."""
        digest = _digest(token, audience)
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        async with self._reviews:
            pod = await self._review(token, audience)
        self._known[digest] = (pod, time.monotonic() + (_TRUSTED_SECONDS if pod else _DISTRUSTED_SECONDS))
        self._known.move_to_end(digest)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return pod

    async def _review(self, token: str, audience: str) -> str:
        body = {
            "apiVersion": TOKEN_REVIEW.version,
            "kind": TOKEN_REVIEW.kind,
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._cluster.create(TOKEN_REVIEW, None, body)).get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return ""
        uids = ((status.get("user") or {}).get("extra") or {}).get(POD_UID) or [""]
        return str(uids[0])


class ProgressServer:
    """See the module. `leading` is asked at every POST."""

    def __init__(self, cluster: Cluster, store: Store, leading: Callable[[], bool]) -> None:
        self._store, self._leading = store, leading
        self._reviewer = Reviewer(cluster)
        self._reports = Allowance(_BURST, _PER_SECOND)
        self._mistakes = Allowance(_BURST, _PER_SECOND)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAXIMUM_BODY)
        application.router.add_post("/v1/progress/{namespace}/{run}", self.post)
        return application

    async def post(self, request: web.Request) -> web.Response:
        if not self._leading():
            return _answer(503, "this is a standby; try again", {"Retry-After": _STANDBY_SECONDS})
        if (request.content_length or 0) > MAXIMUM_BODY:
            return _answer(413, f"body: found {request.content_length} bytes, expected at most {MAXIMUM_BODY}")
        key = (request.match_info["namespace"], request.match_info["run"])
        token = _bearer(request)
        if not token:
            return _answer(401, "Authorization: expected Bearer and the pod's projected token")
        run = self._store.runs.get(key)
        # A name that does not exist is told to nobody: without a run there is no audience, so no token fits.
        uid = str(run["metadata"]["uid"]) if run else "none"
        audience, claims = f"rewarm.dev/{key[0]}/{key[1]}/{uid}", unverified_claims(token)
        if is_hopeless(claims, audience, time.time()) or not claimed_pod(claims):
            return _answer(401, _NOT_VALID)
        pod, why = self._speaker(uid, claimed_pod(claims))
        if pod is None:
            return _answer(403, why)
        refusal = await self._refused(token, audience, claimed_pod(claims), request.remote or "?")
        if refusal is not None:
            return refusal
        if not self._reports.take(uid):
            return _answer(429, "reports come too often", {"Retry-After": "1"})
        return await self._read(request, uid, pod)

    async def _refused(self, token: str, audience: str, pod_uid: str, sender: str) -> web.Response | None:
        """Asks the API server whether the token is real, and of this pod."""
        if self._mistakes.left(sender) < 1.0 and not self._reviewer.knows(token, audience):
            return _answer(429, "too many tokens from this address were not valid", {"Retry-After": "1"})
        try:
            reviewed = await self._reviewer.pod(token, audience)
        except ApiError as error:
            return _answer(503, f"the token cannot be reviewed: {error.message}", {"Retry-After": _STANDBY_SECONDS})
        if reviewed == pod_uid:
            return None
        self._mistakes.take(sender)
        return _answer(401, _NOT_VALID)

    async def _read(self, request: web.Request, uid: str, pod: Json) -> web.Response:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
            report = read_report(body)
        except web.HTTPRequestEntityTooLarge:
            return _answer(413, f"body: expected at most {MAXIMUM_BODY} bytes; send less")
        except TimeoutError:
            answer = _answer(408, f"body: it did not come within {BODY_SECONDS:.0f} s; send it again")
            answer.force_close()
            return answer
        except ReportError as error:
            return _answer(400, str(error))
        pod_uid = str(pod["metadata"]["uid"])
        self._store.heard(uid, Heartbeat(_attempt(pod), pod_uid, SERVER.now(), report))
        return web.Response(status=204)

    def _speaker(self, uid: str, pod_uid: str) -> tuple[Json | None, str]:
        """The pod, when it may speak for the run; else why not."""
        pod = next((each for each in self._store.pods(uid) if each["metadata"]["uid"] == pod_uid), None)
        if pod is None:
            return None, "the pod is not (or no longer) one of this run"
        jobs = {job["metadata"]["uid"]: job for job in self._store.jobs(uid)}
        owners = [jobs[owner["uid"]] for owner in pod["metadata"].get("ownerReferences") or () if owner["uid"] in jobs]
        if not owners:
            return None, "the pod belongs to no Job of this run"
        newest = max((_attempt(job) for job in jobs.values()), default=0)
        if _attempt(owners[0]) != newest or _attempt(pod) != newest:
            return None, f"the pod is not of attempt {newest}, the newest"
        metadata = pod["metadata"]
        index = (metadata.get("labels") or {}).get(INDEX) or (metadata.get("annotations") or {}).get(INDEX)
        if newest and index != "0":
            return None, f"the pod has rank {index}; only rank 0 reports"
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return None, "the pod has ended"
        return pod, ""


class Certificate:
    """The server's certificate from mounted files; a renewed one is taken up without a restart."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate, self._key = certificate, key
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._stamp = self._load()

    async def follow(self, seconds: float = 60.0) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                if self._files() != self._stamp:
                    self._stamp = self._load()
                    log.info("took up a renewed certificate")
            except (OSError, ssl.SSLError) as error:
                log.warning("the renewed certificate is not usable, the old one stays: %s", error)

    def _load(self) -> tuple[int, ...]:
        stamp = self._files()
        self.context.load_cert_chain(self._certificate, self._key)
        return stamp

    def _files(self) -> tuple[int, ...]:
        return tuple(os.stat(path).st_mtime_ns for path in (self._certificate, self._key))


def _attempt(item: Json) -> int:
    """The attempt that a trainer's Job or pod is of; 0 for preparation."""
    labels = item["metadata"].get("labels") or {}
    text = str(labels.get(ATTEMPT_LABEL) or "0")
    return int(text) if labels.get(ROLE_LABEL) == "trainer" and text.isdecimal() else 0


def _digest(token: str, audience: str) -> bytes:
    return hashlib.sha256(f"{audience}\n{token}".encode()).digest()


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and 0 < len(token) <= _LONGEST_TOKEN else ""


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"message": message}, status=status, headers=headers)
