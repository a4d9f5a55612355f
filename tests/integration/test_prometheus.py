"""Every query of every dashboard, and every alert, on a real Prometheus that scrapes a real run and the operator.

An error fails, and so does an empty answer: a panel that shows nothing looks like a run that does nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rendered_chart import CHART, one, render
from rewarm_world import World
from scraping import ScrapingPrometheus, Target

from rewarm_cluster.errors import ClusterError
from rewarm_cluster.packages import program
from rewarm_cluster.processes import Processes, free_ports
from rewarm_operator.metrics import Metrics, Sources

NAMESPACE, RUN = "ml", "tiny"


# Of make test-cluster, which installs Prometheus; it needs no API server.
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module", autouse=True)
def _prometheus_is_there() -> None:
    if os.environ.get("REWARM_REQUIRE_CLUSTER") != "1":
        try:
            program("prometheus")
        except ClusterError as error:
            pytest.skip(str(error))


def run_object(name: str, summary: str, conditions: dict[str, str], **status: Any) -> dict[str, Any]:
    """A run as the API server has it."""
    return {
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": f"uid-{name}"},
        "spec": {"gates": {"maxForgetting": 0.05}, "compute": {"nodes": 2, "gpusPerNode": 8}},
        "status": {
            "summary": summary,
            "conditions": [{"type": kind, "status": value} for kind, value in conditions.items()],
            **status,
        },
    }


def training(name: str, conditions: dict[str, str], now: datetime) -> dict[str, Any]:
    """One that says everything that a status can say."""

    def attempt(number: int, start: int, end: int | None, recomputed: int) -> dict[str, Any]:
        times = {"startTime": (now - timedelta(seconds=start)).isoformat()}
        times |= {} if end is None else {"endTime": (now - timedelta(seconds=end)).isoformat()}
        return {"number": number, "tokensRecomputed": recomputed, **times}

    return run_object(
        name,
        "Training",
        conditions,
        progress={"tokens": 4000, "targetTokens": 10000, "tokensPerSecond": 120.0},
        learningRate=3e-4,
        evaluation=[
            {"set": "code", "role": "New", "baseline": 3.0, "latest": 2.5, "delta": {"mean": -0.5}},
            {"set": "general", "role": "Retained", "baseline": 2.5, "latest": 2.625, "delta": {"mean": 0.125}},
        ],
        forgetting={"max": 0.125},
        gain={"mean": 0.5},
        replay={"realized": 0.24, "requested": 0.25},
        counts={"attempts": 2, "failures": 1, "disruptions": 1},
        trainingSeconds=7200,
        checkpoint={"uri": "s3://b/step-10", "step": 10, "committedAt": (now - timedelta(minutes=5)).isoformat()},
        attempts=[attempt(1, 7200, 3600, 500), attempt(2, 3500, None, 0)],
    )


class OperatorPage:
    """The operator's own metrics module over a few runs, served where Prometheus can scrape it."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        runs = [
            training(RUN, {"Running": "True", "Stalled": "False", "Succeeded": "Unknown"}, now),
            training("stuck", {"Running": "True", "Stalled": "True", "Degraded": "True"}, now),
            run_object("done", "Succeeded", {"Succeeded": "True", "Running": "False"}),
            run_object("waits", "Queued", {"Running": "False"}),
        ]
        self._requests: Counter[tuple[str, str]] = Counter()
        self._metrics = Metrics(
            Sources(
                depth=lambda: 1,
                leading=lambda: True,
                requests=lambda: self._requests,
                runs=lambda: runs,
                heartbeats=lambda: {f"uid-{RUN}": datetime.now(UTC)},
            )
        )
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = page.text()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def text(self) -> bytes:
        """Between two scrapes some visits were made and some requests sent, one of them in vain."""
        self._requests.update({("patch", "200"): 3, ("patch", "409"): 1, ("list", "200"): 1})
        self._metrics.took("done", 0.004)
        self._metrics.took("error", 0.2)
        return self._metrics.text()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def trainer(world: World) -> Iterator[str]:
    """The address of a real run that trains on until the tests are through."""
    port = free_ports(1)[0]
    manifest = world.manifest(RUN, budget__tokens=20_000_000, replay__maxRepeats=10_000, checkpoints__every="10K")
    said: list[str] = []
    process = world.start("run", manifest, "--workdir", world.root / "scraped", "--metrics-port", str(port))
    threading.Thread(target=said.extend, args=(process.stderr,), daemon=True).start()
    try:
        yield f"127.0.0.1:{port}"
        assert process.poll() is None, f"the run ended before the tests were through: {said[-3:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def prometheus(trainer: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScrapingPrometheus]:
    """It has seen a look, a commit, and each page at least three times."""
    state = tmp_path_factory.mktemp("prometheus")
    page, processes = OperatorPage(), Processes(state, detached=False)
    targets = [
        Target("runs", trainer, {"namespace": NAMESPACE, "run": RUN, "pod": "tiny-a1-0", "node_rank": "0"}),
        Target("operator", page.address, {"namespace": "rewarm", "pod": "rewarm-1"}, honor_labels=True),
    ]
    rules = one(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")["spec"]
    try:
        made = ScrapingPrometheus(state, targets, rules, processes)
        made.wait('rewarm_eval_delta{role="Retained"} and on (run) (rewarm_training_steps_total > 0)')
        made.wait("rewarm_checkpoint_committed_timestamp_seconds > 0")
        made.wait("rewarm_eval_duration_seconds > 0 and on (run) (rewarm_training_loss > 0)")
        made.wait("count_over_time(rewarm_operator_leader[1m]) > 2")
        yield made
    finally:
        processes.stop("prometheus")
        page.close()


def targets() -> list[Any]:
    """(title, query, instant) of every panel of every dashboard in the chart."""
    found = []
    for file in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                name = f"{file.stem}: {panel['title']} {target['refId']}"
                found.append(pytest.param(target["expr"], bool(target.get("instant")), id=name))
    return found


def filled_in(expression: str) -> str:
    """As Grafana sends it."""
    chosen = {"$namespace": NAMESPACE, "$run": RUN, "$__rate_interval": "1m", "$__range": "5m"}
    for variable, value in chosen.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


@pytest.mark.parametrize(("expression", "instant"), targets())
def test_a_panel_shows_something(prometheus: ScrapingPrometheus, expression: str, instant: bool) -> None:
    query, now = filled_in(expression), time.time()
    if instant:
        # A subquery looks at whole minutes: one lies behind us then, and what was scraped still counts.
        values = [series["value"][1] for series in prometheus.instant(query, now + 61)]
    else:
        values = [point[1] for series in prometheus.range(query, now - 10, now, 1) for point in series["values"]]
    assert values, f"empty: {query}"
    assert any(math.isfinite(float(value)) for value in values), f"no number: {query}"


def test_variables_offer_what_there_is(prometheus: ScrapingPrometheus) -> None:
    offered = {}
    for file in (CHART / "dashboards").glob("*.json"):
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
                found = prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(selector)})
                offered[file.stem, variable["name"]] = found
    assert offered == {
        ("rewarm-run", "namespace"): [NAMESPACE],
        ("rewarm-run", "run"): ["done", "stuck", RUN, "waits"],
        ("rewarm-fleet", "namespace"): [NAMESPACE],
    }


def test_a_run_without_an_operator_fills_its_own_panels(prometheus: ScrapingPrometheus) -> None:
    """What `rewarm run --metrics-port` exports is enough for the panels of training and evaluation."""
    own = 'job="runs", namespace="ml"'
    metrics = {
        "training_loss", "source_loss", "eval_loss", "eval_delta", "learning_rate", "gradient_norm",
        "tokens_per_second", "replay_share", "replay_ratio_requested", "forgetting", "activity_seconds",
        "checkpoint_age_seconds", "attempt", "source_tokens_total", "checkpoint_duration_seconds",
    }  # fmt: skip
    for metric in sorted(metrics):
        assert prometheus.instant(f"rewarm_{metric}{{{own}}}"), metric


def test_rules_are_evaluated_without_error(prometheus: ScrapingPrometheus) -> None:
    prometheus.wait('ALERTS{alertname="RewarmRunStalled", run="stuck"}')
    rules = {rule["name"]: rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert set(rules) == {
        "RewarmRunStalled", "RewarmRunDiverging", "RewarmForgettingAboveBudget", "RewarmCheckpointTooOld",
        "RewarmOperatorWithoutLeader", "RewarmOperatorDown",
    }  # fmt: skip
    assert {name: rule["health"] for name, rule in rules.items()} == dict.fromkeys(rules, "ok")
    told = {(name, alert["labels"].get("run")) for name, rule in rules.items() for alert in rule["alerts"]}
    assert told == {("RewarmRunStalled", "stuck")}


def test_what_rules_read_is_there(prometheus: ScrapingPrometheus) -> None:
    """An alert over a name that nobody exports would never fire: each selector of each rule finds something."""
    rules = one(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")["spec"]
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    selectors = {found for text in expressions for found in re.findall(r"rewarm_\w+(?:\{[^}]*\})?", text)}
    assert len(selectors) >= 10
    assert {selector for selector in selectors if not prometheus.instant(selector)} == set()


def test_alerts_have_unit_tests_that_pass(prometheus: ScrapingPrometheus) -> None:
    """tests/unit/charts runs them too, where promtool is there: here it always is."""
    folder = CHART.parents[1] / "tests" / "alerts"
    command = [program("promtool"), "test", "rules", *(file.name for file in folder.glob("*.yaml"))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
