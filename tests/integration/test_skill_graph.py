"""A skill graph learned from real runs, and a run that uses what was printed."""

from __future__ import annotations

from pathlib import Path

import yaml
from rewarm_world import World, functions, write_lines

from rewarm_api.manifest import read_manifest
from rewarm_api.skills import learning_runs
from rewarm_api.validate import validate
from rewarm_trainer import skills


def test_text_of_the_same_kind_helps_and_the_graph_is_one_that_a_run_takes(world: World, capsys) -> None:
    lines = functions()
    write_lines(world.root / "data" / "more.jsonl", lines[300:420])
    sources = [{"name": name, "uri": f"data/{name}.jsonl", "license": "PSF-2.0"} for name in ("code", "more")]
    manifest = world.manifest("skills", corpus__sources=sources, budget__tokens=5120)
    folders = []
    for name, run in learning_runs(read_manifest(manifest)).items():
        path = world.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(run))
        assert world.run(path, name).code == 0
        folders.append(str(world.root / name))
    assert skills.main(folders) == 0
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if line.startswith("#")] == [
        "# more beside code",
        "# code beside more",
    ]
    learned = yaml.safe_load(printed)
    document = read_manifest(manifest)
    document["spec"] |= learned
    assert validate(document, local=True).valid
    assert skills.main([folders[0]]) == 66
    assert "give those of each source alone and of two together" in capsys.readouterr().err
    assert skills.main([str(Path(folders[0])), str(manifest.parent / "nowhere")]) == 66
