from __future__ import annotations

REPLAY = {"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl", "license": "CC0"}]}


def test_valid(rewarm, manifest):
    path = manifest(replay=REPLAY)
    assert rewarm("validate", path, "-o", "json").json == {"valid": True, "problems": [], "warnings": []}
    people = rewarm("validate", path)
    assert (people.code, people.out, people.err) == (0, f"{path}: valid\n", "")


def test_all_problems_at_once_with_field_found_expected_and_fix(rewarm, manifest):
    path = manifest(replay={**REPLAY, "ratio": 1.2}, schedule={"peakLearningRate": 0.001, "wormup": "1%"})
    result = rewarm("validate", path, "-o", "json")
    assert result.code == 64
    assert result.json["valid"] is False
    fields = {problem["field"] for problem in result.json["problems"]}
    assert fields == {"spec.replay.ratio", "spec.schedule.wormup"}
    assert all(set(problem) == {"field", "found", "expected", "fix"} for problem in result.json["problems"])
    ratio = next(problem for problem in result.json["problems"] if problem["field"] == "spec.replay.ratio")
    assert (ratio["found"], ratio["expected"]) == ("1.2", "0 <= ratio < 1")


def test_people_get_the_same_problems_as_a_table(rewarm, manifest):
    result = rewarm("validate", manifest(replay={**REPLAY, "ratio": 1.2}))
    assert result.code == 64
    # The path of the manifest may be long enough to wrap the line.
    told = " ".join(result.out.split())
    for word in ("1 problem", "spec.replay.ratio", "1.2", "0 <= ratio < 1"):
        assert word in told


def test_warnings_are_in_the_json_and_on_standard_error(rewarm, manifest):
    path = manifest(replay={"ratio": 0.25, "sources": [{"name": "old", "uri": "old.jsonl"}]})
    (warning,) = rewarm("validate", path, "-o", "json").json["warnings"]
    assert "spec.replay.sources[0].license" in warning
    assert rewarm("validate", path).err == f"warning: {warning}\n"


def test_no_such_file_is_66(rewarm, tmp_path):
    result = rewarm("validate", tmp_path / "none.yaml", "-o", "json")
    assert (result.code, result.out) == (66, "")
    assert "none.yaml" in result.err


def test_unreadable_yaml_is_a_problem_of_the_whole_file(rewarm, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("spec: [")
    result = rewarm("validate", path, "-o", "json")
    assert result.code == 64
    (problem,) = result.json["problems"]
    assert problem["field"] == ""
    assert "line" in problem["found"]


def test_set_changes_one_field(rewarm, manifest):
    path = manifest(replay=REPLAY)
    assert rewarm("validate", path, "--set", "spec.replay.ratio=0.5").code == 0
    result = rewarm("validate", path, "--set", "spec.replay.ratio=5", "-o", "json")
    assert [problem["field"] for problem in result.json["problems"]] == ["spec.replay.ratio"]
    wrong = rewarm("validate", path, "--set", "spec.replay.ratio", "-o", "json")
    assert wrong.code == 64
    assert "path=value" in wrong.json["problems"][0]["expected"]


def test_a_cluster_manifest_is_valid_too(rewarm, manifest):
    path = manifest(baseModel={"volume": {"claim": "models", "path": "llama"}}, compute={"nodes": 2})
    assert rewarm("validate", path).code == 0
