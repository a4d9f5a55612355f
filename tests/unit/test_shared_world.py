"""Files of tests share one world in a process, in an order that nobody chooses: each has folders of its own there."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1] / "integration"
# Made by the world itself, or never made at all.
SHARED = {"cache", "data", "whole", "whole.yaml", "nowhere"}
FOLDER = re.compile(r"""world\.root / "([^"]+)"|world\.run\((?:[^(),]|\([^()]*\))+, "([a-z][a-z0-9-]*)\"""")


def test_no_two_files_of_tests_use_one_folder_of_the_world() -> None:
    users = defaultdict(set)
    for path in TESTS.rglob("*.py"):
        for one, other in FOLDER.findall(path.read_text()):
            users[one or other].add(path.name)
    assert len(users) > 50, "the pattern finds nothing any more"
    assert {name: files for name, files in users.items() if len(files) > 1 and name not in SHARED} == {}
