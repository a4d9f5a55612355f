"""Worlds for one run."""

from __future__ import annotations

import pytest
from operator_world import World


@pytest.fixture
def world() -> World:
    """A run of two nodes on the CPU, submitted a moment ago."""
    return World()


@pytest.fixture
def training(world: World) -> World:
    """The same, with attempt 1 training."""
    world.start()
    return world
