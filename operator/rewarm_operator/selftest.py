"""What `helm test` asks a real installation: is the CRD served, are the rights those and no more, do servers answer.

`python -m rewarm_operator.selftest` runs under the operator's own account and prints one line per check; exit code 1
when any of them failed. It changes nothing: access reviews are questions, and the calls to servers read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rewarm_operator.cluster import Access, ApiError, HttpCluster
from rewarm_operator.resources import KUEUE_GROUP, RUN, Resource

Right = tuple[str, str, str]
"""API group, resource (with `/subresource`), verb."""

READ = ("get", "list", "watch")
_IN_NAMESPACES: dict[tuple[str, str], tuple[str, ...]] = {
    ("rewarm.dev", "continualruns"): (*READ, "create", "patch"),
    ("rewarm.dev", "mixturestudies"): READ,
    ("rewarm.dev", "mixturestudies/status"): ("patch",),
    ("rewarm.dev", "continualruns/status"): ("patch",),
    ("rewarm.dev", "continualruns/finalizers"): ("update",),
    ("batch", "jobs"): (*READ, "create", "delete"),
    ("", "services"): (*READ, "create"),
    ("", "configmaps"): (*READ, "create"),
    ("", "pods"): READ,
    ("", "events"): ("create", "patch"),
    (KUEUE_GROUP, "workloads"): READ,
}


def _rights(table: Mapping[tuple[str, str], tuple[str, ...]]) -> frozenset[Right]:
    return frozenset((group, resource, verb) for (group, resource), verbs in table.items() for verb in verbs)


WATCHED_RIGHTS = _rights(_IN_NAMESPACES)
"""In every watched namespace. The chart's Role holds exactly these."""
LEADER_RIGHTS = _rights({("coordination.k8s.io", "leases"): ("get", "create", "update")})
"""In the operator's own namespace."""
CLUSTER_RIGHTS = _rights({("authentication.k8s.io", "tokenreviews"): ("create",)})
"""In no namespace, when progress reporting is on."""
DENIED = _rights({("", "secrets"): (*READ, "create", "update", "patch", "delete")})
"""Nowhere."""

_REVIEW = Resource("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews")
_SECONDS = 30.0
_AUTHORITY = "REWARM_PROGRESS_CA_FILE"


@dataclass(frozen=True)
class Result:
    """One check: what was asked, and what is wrong (empty: nothing)."""

    name: str
    problem: str = ""

    def __str__(self) -> str:
        return f"FAILED  {self.name}: {self.problem}" if self.problem else f"ok      {self.name}"


@dataclass(frozen=True)
class Installation:
    """What is tested; the environment is that of the operator."""

    namespace: str
    namespaces: tuple[str, ...]
    """Empty: all."""
    progress_url: str
    authority: str
    """Path of the PEM file that the progress server's certificate is checked with."""
    tracking_uri: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Installation:
        names = environment.get("REWARM_NAMESPACES", "")
        return cls(
            namespace=environment.get("REWARM_OPERATOR_NAMESPACE", "default"),
            namespaces=tuple(name for name in (part.strip() for part in names.split(",")) if name),
            progress_url=environment.get("REWARM_PROGRESS_URL", ""),
            authority=environment.get(_AUTHORITY, ""),
            tracking_uri=environment.get("REWARM_DEFAULT_TRACKING_URI", ""),
        )

    def scopes(self) -> tuple[str, ...]:
        """Watched namespaces; the empty name stands for all of them."""
        return self.namespaces or ("",)


async def cluster_checks(cluster: HttpCluster, installation: Installation) -> AsyncIterator[Result]:
    """CRD and rights, by questions to the API server."""
    yield await _served(cluster)
    for scope in installation.scopes():
        where = f"in {scope}" if scope else "in all namespaces"
        yield await _listed(cluster, scope, where)
        yield await _allowed(cluster, WATCHED_RIGHTS, scope, f"rights {where}")
        yield await _refused(cluster, scope, f"no rights on secrets {where}")
    yield await _allowed(cluster, LEADER_RIGHTS, installation.namespace, f"rights in {installation.namespace}")
    if installation.progress_url:
        yield await _allowed(cluster, CLUSTER_RIGHTS, "", "rights of no namespace")


async def _served(cluster: HttpCluster) -> Result:
    group, version = RUN.version.split("/")
    found = (await cluster.served()).get(group, [])
    problem = "" if version in found else f"found versions {found}, expected {version}; install with crds.enabled: true"
    return Result(f"API {RUN.version} is served", problem)


async def _listed(cluster: HttpCluster, scope: str, where: str) -> Result:
    name = f"ContinualRuns can be listed {where}"
    try:
        await cluster.page(RUN, scope or None, "")
    except ApiError as error:
        return Result(name, str(error))
    return Result(name)


async def _allowed(cluster: HttpCluster, rights: frozenset[Right], scope: str, name: str) -> Result:
    lacking = [_text(right) for right in sorted(rights) if not await _may(cluster, right, scope)]
    return Result(name, f"found no right to {', '.join(lacking)}; install with rbac.create: true" if lacking else "")


async def _refused(cluster: HttpCluster, scope: str, name: str) -> Result:
    granted = [_text(right) for right in sorted(DENIED) if await _may(cluster, right, scope)]
    fix = "remove the binding of its service account that gives it"
    return Result(name, f"found a right to {', '.join(granted)}, expected none; {fix}" if granted else "")


async def _may(cluster: HttpCluster, right: Right, scope: str) -> bool:
    group, resource, verb = right
    plural, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": subresource, "verb": verb, "namespace": scope}
    body = {
        "apiVersion": _REVIEW.version,
        "kind": _REVIEW.kind,
        "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
    }
    answer = await cluster.create(_REVIEW, None, body)
    return bool(answer["status"].get("allowed"))


def _text(right: Right) -> str:
    group, resource, verb = right
    return f"{verb} {resource}{'.' + group if group else ''}"


def server_checks(installation: Installation, environment: Mapping[str, str]) -> Iterator[Result]:
    """The servers that runs talk to, by real calls: a health page answers also where every other page is refused."""
    if installation.progress_url:
        yield _progress(installation)
    if installation.tracking_uri.startswith("http"):
        yield _tracking(installation.tracking_uri, environment)


def _progress(installation: Installation) -> Result:
    """A report without a token must reach the server, through TLS that pods trust, and must be turned away."""
    name = f"progress server {installation.progress_url}"
    url = f"{installation.progress_url.rstrip('/')}/v1/progress/{installation.namespace}/selftest"
    request = Request(url, data=b"{}", headers={"Content-Type": "application/json"}, method="POST")
    context = ssl.create_default_context(cafile=installation.authority or None)
    try:
        with urlopen(request, timeout=_SECONDS, context=context) as response:
            return Result(name, f"took a report without a token ({response.status}), expected 401")
    except HTTPError as error:
        # 503: the Service led to a standby, which sends trainers to the active one.
        return Result(name, "" if error.code in (401, 403, 503) else f"answered {error.code}, expected 401")
    except OSError as error:
        return Result(name, f"cannot be reached as pods do it: {error}")


def _tracking(uri: str, environment: Mapping[str, str]) -> Result:
    name = f"MLflow at {uri}"
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    headers = {"Content-Type": "application/json", **_credentials(environment)}
    request = Request(url, data=b'{"max_results": 1}', headers=headers, method="POST")
    context = ssl.create_default_context(cafile=environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or None)
    if environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        with urlopen(request, timeout=_SECONDS, context=context if uri.startswith("https") else None) as response:
            json.load(response)
    except HTTPError as error:
        text = " ".join(error.read(300).decode(errors="replace").split())
        hint = "; list this host in MLFLOW_SERVER_ALLOWED_HOSTS of the server" if "Host" in text else ""
        return Result(name, f"refused a call of its API with {error.code}: {text}{hint}")
    except (OSError, ValueError) as error:
        return Result(name, f"answered no call of its API: {error}")
    return Result(name)


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


async def check(installation: Installation, environment: Mapping[str, str]) -> list[Result]:
    """Everything, in order; each result is printed as it comes."""
    results = []

    def take(result: Result) -> None:
        print(result, flush=True)
        results.append(result)

    cluster = HttpCluster(await Access.load(), lambda: True)
    try:
        async for result in cluster_checks(cluster, installation):
            take(result)
    except ApiError as error:
        take(Result("the API server answers", str(error)))
    finally:
        await cluster.close()
    for result in server_checks(installation, environment):
        take(result)
    return results


def main() -> int:
    results = asyncio.run(check(Installation.from_environment(os.environ), os.environ))
    failed = sum(bool(result.problem) for result in results)
    print(f"{len(results) - failed} of {len(results)} checks passed", flush=True)
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
