"""Reports to a real operator's progress server, with real tokens of real pods."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import Any

from operator_process import OperatorProcess, Place, attempt, rank, role

REPORT = {"progress": {"step": 7, "tokens": 7168, "targetTokens": 65536, "percent": 10, "tokensPerSecond": 5.0}}


def pod_of(place: Place, number: int = 1, index: int = 0, run: str = "run") -> Any:
    pods = place.api.get(f"/api/v1/namespaces/{place.namespace}/pods?labelSelector=rewarm.dev/run%3D{run}")["items"]
    return next(pod for pod in pods if role(pod) == "trainer" and attempt(pod) == number and rank(pod) == index)


def token_of(place: Place, path: str, pod: Any, audience: str = "") -> str:
    uid = place.api.get(path)["metadata"]["uid"]
    audience = audience or f"rewarm.dev/{place.namespace}/run/{uid}"
    return place.cluster.token(place.namespace, "default", audience=audience, pod=pod["metadata"]["name"])


def post(place: Place, operator: OperatorProcess, token: str, body: Any, run: str = "run") -> tuple[int, Any]:
    tls = ssl.create_default_context(cafile=str(place.cluster.authority))
    connection = http.client.HTTPSConnection("127.0.0.1", operator.progress_port, context=tls, timeout=20)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", f"/v1/progress/{place.namespace}/{run}", body=text, headers=headers)
    answer = connection.getresponse()
    answer.read()
    retry_after = answer.getheader("Retry-After")
    connection.close()
    return answer.status, retry_after


def resigned(place: Place, token: str, **claims: Any) -> str:
    """A token with some claims changed, signed by the very key that the API server signs with."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    head, body, _ = token.split(".")
    value = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | claims
    text = f"{head}.{_encoded(json.dumps(value).encode())}"
    key = serialization.load_pem_private_key(place.cluster.token_key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return f"{text}.{_encoded(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
