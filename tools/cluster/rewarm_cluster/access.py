"""Who may do what: kubeconfig files of users and service accounts, and the rights given to them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def write_kubeconfig(
    path: Path,
    url: str,
    authority: Path,
    *,
    certificate: tuple[Path, Path] | None = None,
    token: str | None = None,
    namespace: str = "default",
) -> Path:
    """A kubeconfig that holds everything itself, so that it works from any folder and in any container."""

    def encoded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    user: dict[str, str] = {}
    if certificate is not None:
        user = {"client-certificate-data": encoded(certificate[0]), "client-key-data": encoded(certificate[1])}
    if token is not None:
        user = {"token": token}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rewarm", "cluster": {"server": url, "certificate-authority-data": encoded(authority)}}],
        "users": [{"name": "rewarm", "user": user}],
        "contexts": [{"name": "rewarm", "context": {"cluster": "rewarm", "user": "rewarm", "namespace": namespace}}],
        "current-context": "rewarm",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    # JSON is YAML: one writer less.
    path.write_text(json.dumps(document, indent=1))
    return path


def grant(name: str, subject: dict[str, str], rules: list[dict[str, Any]], namespace: str | None) -> list[Any]:
    """Role (of one namespace) or ClusterRole (namespace None) with its binding to one subject."""
    kind = "Role" if namespace else "ClusterRole"
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    group = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]
