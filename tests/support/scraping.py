"""A real Prometheus over addresses that are known beforehand, asked by its own API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from rewarm_cluster.packages import program
from rewarm_cluster.processes import Processes, free_ports


@dataclass(frozen=True)
class Target:
    """One exposition: `address` as host:port; `labels`, as the chart's PodMonitor would add them."""

    job: str
    address: str
    labels: dict[str, str]
    honor_labels: bool = False


class ScrapingPrometheus:
    """Scrapes and evaluates every second, until its processes are stopped."""

    def __init__(self, state: Path, targets: list[Target], rules: dict[str, Any], processes: Processes) -> None:
        state.mkdir(parents=True, exist_ok=True)
        (state / "rules.yml").write_text(yaml.safe_dump(rules))
        (state / "prometheus.yml").write_text(yaml.safe_dump(_configuration(targets, state / "rules.yml")))
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        command = [program("prometheus"), f"--config.file={state / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={state / 'data'}", f"--web.listen-address={self.url[7:]}"]
        processes.start("prometheus", [*command, "--log.level=warn"])
        processes.wait_ready("prometheus", self._ready)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of one answer; AssertionError with Prometheus' own words when it refuses."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/v1/{path}?{urlencode(parameters, doseq=True)}", timeout=30
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def instant(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant vector."""
        found: list[dict[str, Any]] = self.ask("query", query=expression, time=at or time.time())["result"]
        return found

    def range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query_range", query=expression, start=start, end=end, step=step)[
            "result"
        ]
        return found

    def wait(self, expression: str, within_s: float = 200) -> None:
        """Until an expression has a result: scrapes send no event, so this asks again."""
        give_up = time.monotonic() + within_s
        while not self.instant(expression):
            assert time.monotonic() < give_up, f"nothing for {expression} after {within_s} s: {self.troubles()}"
            time.sleep(0.3)

    def troubles(self) -> list[str]:
        """What went wrong with scraping."""
        return [target["lastError"] for target in self.ask("targets")["activeTargets"] if target["lastError"]]


def _configuration(targets: list[Target], rules: Path) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": target.job,
                "honor_labels": target.honor_labels,
                "static_configs": [{"targets": [target.address], "labels": target.labels}],
            }
            for target in targets
        ],
    }
