"""Settings: every field by its variable, every mistake in one go, in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rewarm_api.errors import ManifestError
from rewarm_operator import environment
from rewarm_operator.settings import Settings

TEXTS = {
    "trainer_image": ("registry/trainer:1", "registry/trainer:1"),
    "namespaces": ("team, other,team", ("team", "other")),
    "default_credentials": ("s3,hub", ("s3", "hub")),
    "default_checkpoints_uri": ("s3://runs", "s3://runs/"),
    "default_cache_uri": ("claim://cache/x/", "claim://cache/x/"),
    "default_tracking_uri": ("http://mlflow:5000", "http://mlflow:5000"),
    "environment": ('{"HF_HUB_OFFLINE": "1"}', {"HF_HUB_OFFLINE": "1"}),
}


# The URL of the progress server needs files too: the test below.
FIELDS = [field for field in dataclasses.fields(Settings) if field.name != "progress_url"]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_setting_is_set_by_its_variable(field):
    text, value = TEXTS.get(field.name, ("40", 40) if field.type == "int" else ("some-text", "some-text"))
    variables = {"REWARM_TRAINER_IMAGE": "x", f"REWARM_{field.name.upper()}": text}
    assert getattr(environment.read(variables).settings, field.name) == value


def test_what_is_not_set_has_its_default():
    configuration = environment.read({"REWARM_TRAINER_IMAGE": "x", "REWARM_NAMESPACES": ""})
    assert configuration.settings == Settings(trainer_image="x")
    assert (configuration.health_port, configuration.metrics_port, configuration.progress_port) == (8080, 9401, 8443)
    assert configuration.certificate is None


def test_progress_reporting_takes_three_files(tmp_path: Path):
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).write_text(name)
    variables = {
        "REWARM_TRAINER_IMAGE": "x",
        "REWARM_PROGRESS_URL": "https://rewarm.system.svc:8443",
        "REWARM_PROGRESS_CERTIFICATE": str(tmp_path / "tls.crt"),
        "REWARM_PROGRESS_KEY": str(tmp_path / "tls.key"),
        "REWARM_PROGRESS_CA_FILE": str(tmp_path / "ca.crt"),
    }
    configuration = environment.read(variables)
    assert configuration.settings.progress_ca == "ca.crt"
    assert configuration.certificate == (tmp_path / "tls.crt", tmp_path / "tls.key")


def test_all_mistakes_are_told_in_one_go():
    variables = {
        "REWARM_NAMESPACES": "Team",
        "REWARM_LEASE_SECONDS": "1",
        "REWARM_RESYNC_SECONDS": "soon",
        "REWARM_PROGRESS_URL": "http://x",
        "REWARM_DEFAULT_CHECKPOINTS_URI": "/data",
        "REWARM_ENVIRONMENT": "[1]",
        "REWARM_METRICS_PORT": "70000",
        "REWARM_LOG_LEVEL": "LOUD",
    }
    with pytest.raises(ManifestError) as caught:
        environment.read(variables)
    told = {problem.field for problem in caught.value.problems}
    files = {"REWARM_PROGRESS_CERTIFICATE", "REWARM_PROGRESS_KEY", "REWARM_PROGRESS_CA_FILE"}
    assert told == set(variables) | files | {"REWARM_TRAINER_IMAGE"}
    assert "REWARM_LEASE_SECONDS: found 1, expected a whole number >= 3" in str(caught.value)


@pytest.mark.parametrize("name", ["default_tracking_uri", "default_checkpoints_uri", "default_cache_uri"])
def test_credentials_in_an_address_are_refused_and_not_repeated(name):
    """They would be in the snapshot of every run."""
    scheme = "http" if name == "default_tracking_uri" else "s3"
    variables = {"REWARM_TRAINER_IMAGE": "x", f"REWARM_{name.upper()}": f"{scheme}://user:canary@somewhere/"}
    with pytest.raises(ManifestError, match="an address without user and password") as caught:
        environment.read(variables)
    assert "tracking.operatorSecret and credentials" in str(caught.value)
    assert "canary" not in str(caught.value)
