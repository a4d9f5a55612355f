"""Environments of the peers: made by uv below the work folder, from the index that this machine is set up with.

A peer that does not install, or does not run here, is said so in the tables with the last line of what went wrong.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Environment:
    """Packages that are installed together, and a program that shows that they run on this machine."""

    name: str
    packages: tuple[str, ...]
    probe: str


@dataclass(frozen=True)
class Peer:
    """An environment as it was found: its interpreter and versions, or why there is none."""

    name: str
    python: Path | None
    versions: dict[str, str]
    problem: str = ""


LITGPT = Environment("litgpt", ("litgpt",), "from litgpt import GPT, Config")
OLMO = Environment("olmo-core", ("ai2-olmo-core",), "from olmo_core.nn.transformer import TransformerConfig")
TORCHTITAN = Environment(
    "torchtitan",
    ("torchtitan",),
    "import torch\nfrom torchtitan.tools.utils import device_type\ntorch.zeros(1, device=device_type)",
)
TORCHDATA = Environment("torchdata", ("torchdata", "numpy"), "from torchdata.nodes import MultiNodeWeightedSampler")
DATASETS = Environment("datasets", ("datasets",), "from datasets import interleave_datasets")
STREAMING = Environment("mosaicml-streaming", ("mosaicml-streaming",), "from streaming import StreamingDataset")
LITDATA = Environment("litdata", ("litdata",), "from litdata import CombinedStreamingDataset")


def settings() -> dict[str, str]:
    """uv reads none of pip's settings: those that say where packages come from are handed over."""
    environment = dict(os.environ)
    for ours, pips, option in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL", "index-url"),
        ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL", "extra-index-url"),
        ("UV_FIND_LINKS", "PIP_FIND_LINKS", "find-links"),
        ("SSL_CERT_FILE", "PIP_CERT", "cert"),
    ):
        value = os.environ.get(ours) or os.environ.get(pips) or _pip(option)
        if value:
            environment[ours] = value
    return environment


def _pip(option: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{option}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def find(environment: Environment, folder: Path) -> Peer:
    """The environment below `folder`; made the first time, with the product's own torch version."""
    place = folder / environment.name
    python = place / "bin" / "python"
    torch = f"torch=={importlib.metadata.version('torch').split('+')[0]}"
    made, wanted = place / "made", " ".join((torch, *environment.packages))
    # One that was made for another list of packages, or another torch, is made again.
    if not made.exists() or made.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        for command in (
            [uv, "venv", "-q", "--python", sys.executable, str(place)],
            [uv, "pip", "install", "-q", "--python", str(python), torch, *environment.packages],
        ):
            try:
                subprocess.run(
                    command, check=True, capture_output=True, text=True, env=settings(), timeout=INSTALL_SECONDS
                )
            except (subprocess.SubprocessError, OSError) as error:
                return Peer(environment.name, None, {}, f"does not install: {last_line(error)}")
        made.write_text(wanted)
    try:
        subprocess.run([str(python), "-c", environment.probe], check=True, capture_output=True, text=True, timeout=300)
    except subprocess.SubprocessError as error:
        return Peer(environment.name, None, {}, f"does not run here: {last_line(error)}")
    return Peer(environment.name, python, versions(python, environment.packages))


def last_line(error: Exception) -> str:
    """What went wrong, as the program said it."""
    said = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    program = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", program, *packages, "torch"], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
