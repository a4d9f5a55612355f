"""The exporter, scraped over HTTP and read by Prometheus' own parser."""

from __future__ import annotations

import math
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from rewarm_api.errors import DependencyError

parser = pytest.importorskip("prometheus_client.parser")

from rewarm_trainer.exporter import Exporter  # noqa: E402


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter(0, host="127.0.0.1") as exporter:
        yield exporter


def scrape(exporter: Exporter) -> dict[tuple[str, frozenset], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = {}
    for family in parser.text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} has no HELP"
        for sample in family.samples:
            assert sample.name.startswith("rewarm_")
            assert set(sample.labels) <= {"set", "role", "source", "activity"}
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return samples


def value(samples: dict, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def log_step(exporter: Exporter, **changes) -> None:
    record = {
        "step": 12,
        "tokens": 12288,
        "loss": 2.5,
        "learning_rate": 3e-4,
        "gradient_norm": 0.75,
        "replay_share": 0.25,
        "tokens_per_second": 81000.0,
        "losses": {"pubmed": 2.25, "general": 3.0},
        "tokens_by_source": {"pubmed": 9216, "general": 3072},
    }
    exporter.step(**{**record, **changes})


def test_a_scrape_shows_what_the_last_step_and_look_said(exporter: Exporter) -> None:
    exporter.plan(tokens=20480, steps=20, replay_ratio=0.25)
    exporter.attempt(number=2, processes=2)
    log_step(exporter)
    exporter.evaluation(
        {"pubmed": ("New", 2.0), "general-heldout": ("Retained", 3.125)},
        {"pubmed": -0.5, "general-heldout": 0.125},
        seconds=2.5,
    )
    exporter.checkpoint(step=8, committed_at=time.time() - 90, seconds=0.5)
    exporter.seconds({"train": 12.5, "evaluate": 1.5})
    samples = scrape(exporter)
    assert value(samples, "rewarm_training_tokens_total") == 12288
    assert value(samples, "rewarm_training_steps_total") == 12
    assert value(samples, "rewarm_source_tokens_total", source="general") == 3072
    assert value(samples, "rewarm_training_target_tokens") == 20480
    assert value(samples, "rewarm_training_target_steps") == 20
    assert value(samples, "rewarm_processes") == 2
    assert value(samples, "rewarm_training_loss") == 2.5
    assert value(samples, "rewarm_source_loss", source="pubmed") == 2.25
    assert value(samples, "rewarm_learning_rate") == 3e-4
    assert value(samples, "rewarm_gradient_norm") == 0.75
    assert value(samples, "rewarm_replay_share") == 0.25
    assert value(samples, "rewarm_replay_ratio_requested") == 0.25
    assert value(samples, "rewarm_tokens_per_second") == 81000
    assert value(samples, "rewarm_eval_loss", set="general-heldout", role="Retained") == 3.125
    assert value(samples, "rewarm_eval_delta", set="pubmed", role="New") == -0.5
    assert value(samples, "rewarm_eval_duration_seconds") == 2.5
    assert value(samples, "rewarm_forgetting", set="general-heldout") == 0.125
    assert ("rewarm_forgetting", frozenset({("set", "pubmed")})) not in samples, "a New set is not forgotten"
    assert value(samples, "rewarm_checkpoint_step") == 8
    assert value(samples, "rewarm_checkpoint_duration_seconds") == 0.5
    assert value(samples, "rewarm_attempt") == 2
    assert 90 <= value(samples, "rewarm_checkpoint_age_seconds") < 150
    assert value(samples, "rewarm_activity_seconds", activity="train") == 12.5


def test_the_age_of_the_checkpoint_grows_without_anybody_setting_it(exporter: Exporter) -> None:
    first = value(scrape(exporter), "rewarm_checkpoint_age_seconds")
    second = value(scrape(exporter), "rewarm_checkpoint_age_seconds")
    assert 0 <= first < second


def test_a_number_that_is_not_finite_is_shown_as_it_is(exporter: Exporter) -> None:
    log_step(exporter, loss=math.nan)
    assert math.isnan(value(scrape(exporter), "rewarm_training_loss"))


def test_what_is_not_known_yet_is_not_shown_as_zero(exporter: Exporter) -> None:
    samples = scrape(exporter)
    for name in ("training_loss", "learning_rate", "gradient_norm", "replay_share", "tokens_per_second"):
        assert math.isnan(value(samples, f"rewarm_{name}"))


def test_two_exporters_in_one_process_do_not_share_anything(exporter: Exporter) -> None:
    with Exporter(0, host="127.0.0.1") as other:
        log_step(exporter)
        assert value(scrape(other), "rewarm_training_tokens_total") == 0


def test_a_taken_port_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DependencyError, match=rf"metrics port {port}: cannot listen .*--metrics-port") as caught:
            Exporter(port, host="127.0.0.1")
    assert caught.value.exit_code == 75


def test_a_closed_exporter_frees_its_port() -> None:
    exporter = Exporter(0, host="127.0.0.1")
    port = exporter.port
    exporter.close()
    Exporter(port, host="127.0.0.1").close()
