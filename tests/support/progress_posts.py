"""Reports to a real operator's progress server, with real tokens of real pods."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

from operator_process import OperatorProcess, Place, attempt, rank, role

REPORT = {"progress": {"step": 7, "tokens": 7168, "targetTokens": 65536, "percent": 10, "tokensPerSecond": 5.0}}


def pod_of(place: Place, number: int = 1, index: int = 0) -> Any:
    pods = place.api.get(f"/api/v1/namespaces/{place.namespace}/pods")["items"]
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
