"""etcd, kube-apiserver and, where asked, the controller-manager and the scheduler: real ones, several at once.

    with ControlPlane("jobs") as cluster:
        cluster.apply(Path("crds/continualruns.yaml").read_text())
        cluster.api.wait("/apis/batch/v1/namespaces/default/jobs/x", lambda job: job is not None)

Levels: `api` = etcd and the API server with RBAC (about 3 s): objects are stored and validated, nothing acts on them,
no namespace is ever finalised, no owner reference cascades, pods need a ServiceAccount `default` (`namespace()` makes
it). `jobs` = and the controller-manager: Jobs make pods by their real rules, owners cascade; pods stay Pending until a
test writes their status (or `scheduler=True` and nodes of kwok). With a node: node.py, one to a machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from . import binaries
from .access import grant, write_kubeconfig
from .api import Api
from .certificates import Authority, token_key
from .client import Client
from .errors import ClusterError
from .processes import Processes, free_ports, listens

Level = Literal["api", "jobs"]
ISSUER = "https://kubernetes.default.svc.cluster.local"
SERVICE_RANGE, FIRST_SERVICE_ADDRESS = "10.96.0.0/16", "10.96.0.1"
LEVELS: dict[str, tuple[str, ...]] = {
    "api": ("etcd", "kube-apiserver", "kubectl"),
    "jobs": ("etcd", "kube-apiserver", "kubectl", "kube-controller-manager"),
}


class ControlPlane(Client):
    """A control plane of its own state folder and ports. A context manager; `start` and `stop` do the same."""

    def __init__(
        self,
        level: Level = "api",
        *,
        state: Path | None = None,
        scheduler: bool = False,
        address: str = "127.0.0.1",
        port: int | None = None,
        detached: bool = False,
        apiserver_flags: Sequence[str] = (),
        manager_flags: Sequence[str] = (),
    ) -> None:
        """`state`: a folder to keep; without one it is temporary and `stop` removes it. `address`: where the API server
        is reached. `detached`: the processes outlive this one (`make cluster-up`)."""
        self.level, self.scheduler, self.address = level, scheduler, address
        self._temporary = state is None
        self.state = state or Path(tempfile.mkdtemp(prefix="rewarm-cluster-"))
        # Of the administrator (group system:masters).
        self.kubeconfig = self.state / "kubeconfig"
        self.processes = Processes(self.state, detached=detached)
        self._port, self._flags, self._manager_flags = port, tuple(apiserver_flags), tuple(manager_flags)
        self._etcd_port = 0

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        names = LEVELS[self.level] + (("kube-scheduler",) if self.scheduler else ())
        self._binaries = {name: str(binaries.find(name)) for name in names}
        self._make_certificates()
        self._start_store()
        self.start_apiserver()
        # The server makes it a moment after it is ready, and nearly everything stands in it.
        self.api.wait("/api/v1/namespaces/default", lambda found: found is not None)
        if self.level != "api":
            self._start_manager()
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self.api.wait(account, lambda found: found is not None)
        if self.scheduler:
            self._start_scheduler()

    def stop(self) -> None:
        """End everything, the newest first; a temporary state folder goes too. Does nothing the second time."""
        for name in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            # Nothing of it is kept, so nothing needs a graceful end.
            self.processes.stop(name, kill=self._temporary)
        if self._temporary:
            shutil.rmtree(self.state, ignore_errors=True)

    def attach(self) -> None:
        """Use the control plane that another process started in the same state folder on the same address."""
        self._make_certificates()
        self.api = Api(self.url, self.authority, certificate=self._administrator)

    # -- what tests use ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self._port}"

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signed the API server's."""
        return self.certificates.certificate

    def user(
        self, name: str, *, groups: Sequence[str] = (), rules: Sequence[dict[str, Any]] = (), namespace: str = ""
    ) -> Path:
        """A kubeconfig of a user by client certificate, with these RBAC rules (in one namespace, or everywhere)."""
        pair = self.certificates.client(f"user-{name}", name, groups)
        if rules:
            subject = {"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}
            self.apply(grant(f"user-{name}", subject, list(rules), namespace or None))
        path = self.state / f"user-{name}.kubeconfig"
        return write_kubeconfig(path, self.url, self.authority, certificate=pair, namespace=namespace or "default")

    def service_account(
        self, namespace: str, name: str, *, rules: Sequence[dict[str, Any]] = (), url: str = "", hours: int = 12
    ) -> Path:
        """A kubeconfig with a real token of this service account (made when missing). Rights: `rules` in its namespace,
        or whatever was applied for it, as the chart's rendered Role and RoleBinding. `url`: through a proxy."""
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        self.apply([account])
        if rules:
            subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
            self.apply(grant(name, subject, list(rules), namespace))
        path = self.state / f"{namespace}-{name}.kubeconfig"
        token = self.token(namespace, name, seconds=hours * 3600)
        return write_kubeconfig(path, url or self.url, self.authority, token=token, namespace=namespace)

    def token(self, namespace: str, name: str, *, audience: str = "", seconds: int = 3600, pod: str = "") -> str:
        """A token as pods get it, by TokenRequest; `audience` empty: the API server's. `pod`: bound to this pod."""
        spec: dict[str, Any] = {"expirationSeconds": seconds} | ({"audiences": [audience]} if audience else {})
        if pod:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        status, answer = self.api.call("POST", path, body)
        if status != 201:
            raise AssertionError(f"no token of {namespace}/{name}: {status} {answer}")
        return str(answer["status"]["token"])

    def stop_apiserver(self, *, kill: bool = True) -> None:
        """Take the API server away (etcd keeps everything); `kill` False lets it end open requests."""
        self.processes.stop("kube-apiserver", kill=kill, grace_s=70)

    def restart_apiserver(self) -> None:
        """The same server again on the same address; returns when it is ready."""
        self.stop_apiserver()
        self.start_apiserver()

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _make_certificates(self) -> None:
        folder = self.state / "pki"
        self.certificates = Authority(folder)
        self.front_proxy = Authority(folder, "front-proxy-ca")
        hosts = ["127.0.0.1", FIRST_SERVICE_ADDRESS, "localhost", *([self.address] * (self.address != "127.0.0.1"))]
        hosts += ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        self.serving = self.certificates.server("apiserver", "kube-apiserver", hosts)
        self.kubelet_client = self.certificates.client("kubelet-client", "kube-apiserver", ["system:masters"])
        self.proxy_client = self.front_proxy.client("front-proxy", "front-proxy")
        self.token_key = token_key(folder / "tokens.key")
        self._administrator = self.certificates.client("admin", "rewarm-admin", ["system:masters"])

    def _start_store(self) -> None:
        self._etcd_port, peer = free_ports(2)
        client = f"http://127.0.0.1:{self._etcd_port}"
        command = [self._binaries["etcd"], f"--data-dir={self.state / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [f"--listen-peer-urls=http://127.0.0.1:{peer}"]
        self.processes.start("etcd", command)
        self.processes.wait_ready("etcd", lambda: listens(self._etcd_port))

    def start_apiserver(self) -> None:
        """Start it and wait until it is ready."""
        self._port = self._port or free_ports(1)[0]
        pair = self._administrator
        self.api = Api(self.url, self.authority, certificate=pair)
        write_kubeconfig(self.kubeconfig, self.url, self.authority, certificate=pair)
        self.processes.start("kube-apiserver", [self._binaries["kube-apiserver"], *self._apiserver_flags()])
        self.processes.wait_ready("kube-apiserver", self.api.ready, within_s=120)

    def _apiserver_flags(self) -> list[str]:
        bind = "127.0.0.1" if self.address == "127.0.0.1" else "0.0.0.0"
        # On loopback no pod ever reaches it, and an endpoint on loopback is refused.
        reconciler = "none" if bind == "127.0.0.1" else "master-count"
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={bind}",
            f"--advertise-address={self.address}",
            f"--secure-port={self._port}",
            f"--tls-cert-file={self.serving[0]}",
            f"--tls-private-key-file={self.serving[1]}",
            f"--cert-dir={self.state}",
            f"--client-ca-file={self.authority}",
            f"--kubelet-client-certificate={self.kubelet_client[0]}",
            f"--kubelet-client-key={self.kubelet_client[1]}",
            f"--kubelet-certificate-authority={self.authority}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={self.token_key}",
            f"--service-account-key-file={self.token_key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--endpoint-reconciler-type={reconciler}",
            "--profiling=false",
            f"--requestheader-client-ca-file={self.front_proxy.certificate}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self.proxy_client[0]}",
            f"--proxy-client-key-file={self.proxy_client[1]}",
            "--enable-aggregator-routing=true",
            *self._flags,
        ]

    def component_kubeconfig(self, component: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of one of the cluster's own programs."""
        pair = self.certificates.client(component, user, groups)
        path = self.state / f"{component}.kubeconfig"
        return write_kubeconfig(path, self.url, self.authority, certificate=pair)

    def _start_manager(self) -> None:
        name = "kube-controller-manager"
        path = self.component_kubeconfig(name, f"system:{name}")
        flags = [
            f"--kubeconfig={path}",
            f"--authentication-kubeconfig={path}",
            f"--authorization-kubeconfig={path}",
            f"--service-account-private-key-file={self.token_key}",
            f"--root-ca-file={self.authority}",
            f"--cluster-signing-cert-file={self.authority}",
            f"--cluster-signing-key-file={self.certificates.key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            f"--flex-volume-plugin-dir={self.state / 'flexvolume'}",
            "--secure-port=0",
            "--profiling=false",
        ]
        # Made-up nodes have no kubelet to keep them alive: they stay as a test wrote them.
        flags += list(self._manager_flags or ("--controllers=*,-node-lifecycle-controller",))
        self.processes.start(name, [self._binaries[name], *flags])

    def _start_scheduler(self) -> None:
        name = "kube-scheduler"
        path = self.component_kubeconfig(name, f"system:{name}")
        flags = [f"--{flag}={path}" for flag in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")]
        flags += ["--leader-elect=false", "--secure-port=0", "--kube-api-qps=300", "--kube-api-burst=600"]
        self.processes.start(name, [self._binaries[name], *flags])


def missing(level: str) -> list[str]:
    """Which binaries of a level are not there, and so whether its tests can run."""
    absent = []
    for name in LEVELS[level]:
        try:
            binaries.find(name)
        except ClusterError:
            absent.append(name)
    return absent
