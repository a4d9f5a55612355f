"""One tiny world and one undisturbed run, shared by the tests of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rewarm_world import Finished, World, functions, paragraphs, write_lines


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    write_lines(root / "data" / "general.jsonl", paragraphs()[:300])
    write_lines(root / "data" / "code.jsonl", functions()[:300])
    paths = [str(Path(__file__).parents[2] / part) for part in ("api", "trainer", "cli")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return World(root, environment)


@pytest.fixture(scope="session")
def finished(world: World) -> tuple[Path, Finished]:
    """One undisturbed run to its report; read it, never change it."""
    manifest = world.manifest("whole")
    done = world.run(manifest, "whole")
    assert done.code == 0, done.err
    return world.root / "whole", done
