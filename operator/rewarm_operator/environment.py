"""The operator's settings from environment variables and mounted files: all problems in one go. Starts nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.redaction import has_credentials
from rewarm_operator.settings import Settings, problem

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LEAST = {"lease_seconds": 3, "resync_seconds": 1, "heartbeat_timeout_seconds": 30}
_URLS = {"progress_url": ("https://",), "default_tracking_uri": ("http://", "https://")}
_PLACES = ("default_checkpoints_uri", "default_cache_uri")


@dataclass(frozen=True)
class Configuration:
    """Settings, and what only the process itself needs."""

    settings: Settings
    certificate: tuple[Path, Path] | None = None
    """Certificate and key of the progress server, PEM; None: no server."""
    host: str | None = None
    """Address to listen on; None: all."""
    health_port: int = 8080
    metrics_port: int = 9401
    progress_port: int = 8443


def read(environment: Mapping[str, str]) -> Configuration:
    """Raises ManifestError (64) with every problem."""
    reader = _Reader(environment)
    settings = reader.settings()
    certificate = reader.certificate(settings)
    ports = {name: reader.port(name, getattr(Configuration, name)) for name in ("health_port", "metrics_port")}
    ports["progress_port"] = reader.port("progress_port", Configuration.progress_port)
    reader.level()
    if reader.problems:
        raise ManifestError(reader.problems)
    return Configuration(settings, certificate, environment.get("REWARM_LISTEN") or None, **ports)


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[Problem] = []

    def settings(self) -> Settings:
        values = {}
        for field in dataclasses.fields(Settings):
            text = self._text(field.name).strip()
            if text or field.name == "trainer_image":
                values[field.name] = self._value(field, text)
        return Settings(**self._with_ca(values))

    def certificate(self, settings: Settings) -> tuple[Path, Path] | None:
        """The two files; with progress reporting both have to be there."""
        found = []
        for name in ("progress_certificate", "progress_key"):
            text = self._text(name)
            if text and not Path(text).is_file():
                self._wrong(name, text, "a PEM file that is there", "mount it (chart: progress.existingSecret)")
            if not text and settings.progress_url:
                self._wrong(name, "nothing", "a PEM file, because REWARM_PROGRESS_URL is set", "name it, or unset both")
            found.append(Path(text))
        given = self._text("progress_certificate") and self._text("progress_key")
        return (found[0], found[1]) if given else None

    def port(self, name: str, default: int) -> int:
        text = self._text(name)
        if not text:
            return default
        if not (text.isdecimal() and 0 <= int(text) < 65536):
            self._wrong(name, text, "a port, 0 (any) to 65535", "correct it")
            return default
        return int(text)

    def level(self) -> None:
        text = self._text("log_level")
        if text and text.upper() not in _LEVELS:
            self._wrong("log_level", text, ", ".join(_LEVELS), "correct it")

    def _value(self, field: dataclasses.Field[Any], text: str) -> Any:
        kinds: dict[str, Callable[[str, str], Any]] = {
            "int": self._number,
            "tuple[str, ...]": self._names,
            "Mapping[str, str]": self._mapping,
        }
        return kinds.get(str(field.type), self._string)(field.name, text)

    def _string(self, name: str, text: str) -> str:
        if name == "trainer_image" and not text:
            self._wrong(name, "nothing", "the image of trainer pods", "set it (chart value trainer.image)")
        starts = _URLS.get(name)
        if starts and not text.startswith(starts):
            self._wrong(name, text, f"a URL that starts with {' or '.join(starts)}", "correct it")
        if has_credentials(text):
            # It becomes part of every run's snapshot and status.
            fix = "give them by tracking.operatorSecret and credentials"
            self._wrong(name, text, "an address without user and password", fix)
        if name in _PLACES:
            if not text.startswith(("s3://", "claim://")):
                self._wrong(name, text, "s3://BUCKET/PREFIX/ or claim://NAME/PATH/", "correct it")
            return text.rstrip("/") + "/"
        return text

    def _number(self, name: str, text: str) -> int:
        least = _LEAST.get(name, 0)
        if not text.isdecimal() or int(text) < least:
            self._wrong(name, text, f"a whole number >= {least}", "correct it")
            return least
        return int(text)

    def _names(self, name: str, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        for each in names:
            pattern = _NAMESPACE if name == "namespaces" else re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
            if not pattern.fullmatch(each):
                self._wrong(name, repr(each), "names of Kubernetes objects, separated by commas", "correct it")
        return names

    def _mapping(self, name: str, text: str) -> dict[str, str]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            self._wrong(name, text[:80], 'a JSON object of texts, {"NAME": "value"}', "correct it")
            return {}
        return value

    def _with_ca(self, values: dict[str, Any]) -> dict[str, Any]:
        """The authority's certificate, from the file that the chart mounts."""
        path = self._text("progress_ca_file")
        if path:
            try:
                values["progress_ca"] = Path(path).read_text()
            except OSError as error:
                self._wrong("progress_ca_file", path, f"a readable PEM file ({error.strerror})", "mount it")
        elif values.get("progress_url") and not values.get("progress_ca"):
            self._wrong("progress_ca_file", "nothing", "a PEM file, because REWARM_PROGRESS_URL is set", "name it")
        return values

    def _text(self, name: str) -> str:
        return self._environment.get(f"REWARM_{name.upper()}", "")

    def _wrong(self, name: str, found: str, expected: str, fix: str) -> None:
        self.problems += problem(name, found, expected, fix).problems
