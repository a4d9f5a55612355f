"""Checkpoints through the real commands: broken ones, a full disk, buckets, torchrun; listing, export, comparison."""

from __future__ import annotations

import fcntl
import hashlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from rewarm_world import Finished, World, functions, paragraphs, read_until
from work_folders import contents, copied, cut_back, flip_byte

STEPS = 40
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


def error_lines(done: Finished) -> list[str]:
    return [line for line in done.err.splitlines() if line.startswith("error: ")]


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def same_end(folder: Path, many: Path) -> None:
    """The weights, the moments and the verdict of an undisturbed run, bit for bit."""
    for file in (MODEL, OPTIMIZER):
        assert (checkpoint(folder, STEPS) / file).read_bytes() == (checkpoint(many, STEPS) / file).read_bytes()
    report, undisturbed = (json.loads((path / "report.json").read_text()) for path in (folder, many))
    assert report["outcome"] == "Succeeded"
    assert report["sets"] == undisturbed["sets"]


@pytest.fixture(scope="session")
def many(world: World) -> Path:
    """A finished run that kept all of its ten checkpoints; read it, never change it."""
    done = world.run(world.manifest("many", checkpoints__keep=10), "many")
    assert done.code == 0, done.err
    return world.root / "many"


# --- broken checkpoints ----------------------------------------------------------------------------------------------


def test_of_broken_checkpoints_the_newest_good_one_is_taken_loudly_and_the_run_ends_bit_identical(
    world: World, many: Path
) -> None:
    """One wrong bit in each kind of file, each in a checkpoint of its own: five steps back."""
    folder = cut_back(many, world.root / "broken", STEPS)
    broken = {40: MODEL, 36: OPTIMIZER, 32: "state.json", 28: "manifest.json", 24: "COMMITTED"}
    for step, file in broken.items():
        flip_byte(checkpoint(folder, step) / file, 20 if file == "COMMITTED" else None)

    listed = world.rewarm("checkpoints", folder, "--verify", "-o", "json")
    assert listed.code == 65
    entries = {entry["step"]: entry for entry in listed.json}
    assert sorted(entries) == list(range(4, 41, 4))
    assert [step for step, entry in entries.items() if not entry["verified"]] == sorted(broken)
    for step, file in broken.items():
        assert ("manifest" if file == "COMMITTED" else file) in entries[step]["reason"]

    done = world.run(world.root / "many.yaml", "broken")
    assert done.code == 0, done.err
    for step in broken:
        assert f"warning: checkpoint step-{step:08d} is not used: " in done.err
    report = world.report("broken")
    assert sum("is not used" in warning for warning in report["warnings"]) == len(broken)
    assert report["attempts"][-1]["first_step"] == 21
    same_end(folder, many)
    assert world.rewarm("checkpoints", folder, "--verify").code == 0


def test_when_all_are_broken_it_is_65_and_nothing_starts_from_the_base(world: World, many: Path) -> None:
    folder = cut_back(many, world.root / "all-broken", 36)
    for path in (folder / "checkpoints").glob(f"step-*/{OPTIMIZER}"):
        flip_byte(path)
    steps = [line for line in world.log("all-broken") if "event" not in line]
    before = {name: digest for name, digest in contents(folder / "checkpoints").items() if "fence" not in name}
    done = world.run(world.root / "many.yaml", "all-broken")
    assert done.code == 65, done.err
    (line,) = error_lines(done)
    assert "none of the 9 committed checkpoints is whole; restore one from a backup" in line
    after = {name: digest for name, digest in contents(folder / "checkpoints").items() if "fence" not in name}
    assert after == before
    assert [line for line in world.log("all-broken") if "event" not in line] == steps
    assert world.report("all-broken")["outcome"] == "BadData"


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_disk_full_while_committing_is_75_and_the_same_command_goes_on(world: World, many: Path) -> None:
    """No file may grow beyond 200 kB: the weights fit, the optimizer does not, and MLflow's database neither."""
    folder = cut_back(many, world.root / "full", 32)
    before = contents(checkpoint(folder, 32))
    command = world.command("run", world.root / "many.yaml", "--workdir", folder)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=world.root,
        env=world.environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        timeout=120,
    )
    assert done.returncode == 75, done.stderr
    (line,) = error_lines(Finished(75, done.stdout, done.stderr))
    assert "disk full while writing (File too large); free some space, then start the same command again" in line
    assert "Traceback" not in done.stderr
    assert contents(checkpoint(folder, 32)) == before
    assert sorted((folder / "checkpoints").glob("step-*"))[-1].name == "step-00000032"
    assert not list((folder / "state").rglob(MODEL)), "half-written files keep the disk full"
    report = world.report("full")
    assert (report["outcome"], report["checkpoint"]["step"]) == ("DependencyUnavailable", 32)

    again = world.run(world.root / "many.yaml", "full")
    assert again.code == 0, again.err
    same_end(folder, many)
    causes = [attempt["cause"] for attempt in world.report("full")["attempts"]]
    assert causes == ["Completed", "DependencyUnavailable", "Completed"]


# --- what is kept, and what the commands say -------------------------------------------------------------------------


def test_checkpoints_are_listed(world: World, many: Path) -> None:
    done = world.rewarm("checkpoints", many, "--verify", "-o", "json")
    assert done.code == 0
    assert [entry["step"] for entry in done.json] == list(range(4, STEPS + 1, 4))
    for entry in done.json:
        said = entry["tokens"], entry["committed"], entry["verified"], entry["reason"]
        assert said == (entry["step"] * 256, True, True, "")
        assert entry["size"] == sum(path.stat().st_size for path in checkpoint(many, entry["step"]).iterdir())
    table = world.rewarm("checkpoints", many)
    assert table.code == 0
    assert all(f"step-{step:08d}" in table.out for step in range(4, STEPS + 1, 4))
    report = world.report("many")
    manifest = checkpoint(many, STEPS) / "manifest.json"
    assert report["checkpoint"]["step"] == STEPS
    assert report["checkpoint"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_the_report_of_a_run_again(world: World, many: Path, tmp_path: Path) -> None:
    as_json = world.rewarm("report", many, "-o", "json")
    assert (as_json.code, as_json.json) == (0, world.report("many"))
    page = tmp_path / "page.html"
    table = world.rewarm("report", many, "--html", page)
    assert table.code == 0
    assert "Retained" in table.out
    assert page.read_text() == (many / "report.html").read_text()
    missing = world.rewarm("report", tmp_path)
    assert missing.code == 66
    assert str(tmp_path) in error_lines(missing)[0]


@pytest.mark.parametrize("command", ["checkpoints", "report", "export", "compare"])
def test_a_folder_that_is_not_there_is_66(world: World, command: str) -> None:
    more = ["out"] if command == "export" else ["other"] if command == "compare" else []
    done = world.rewarm(command, world.root / "no-such-run", *more)
    assert done.code == 66, done.err
    assert "no-such-run" in error_lines(done)[0]
    assert not (world.root / "out").exists()


# --- export and comparison -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported(world: World, many: Path) -> Path:
    """The first checkpoint of ten as a model folder."""
    done = world.rewarm("export", many, world.root / "exported", "--checkpoint", "step-00000004")
    assert done.code == 0, done.err
    assert done.out.strip() == str(world.root / "exported")
    return world.root / "exported"


def test_an_exported_folder_loads_with_equal_logits(many: Path, exported: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer(functions()[0], return_tensors="pt").input_ids[:, :100]
    assert tokenizer.decode(ids[0]) in functions()[0]
    trained = AutoModelForCausalLM.from_config(model.config)
    trained.load_state_dict(load_file(checkpoint(many, 4) / MODEL), strict=False)
    trained.tie_weights()
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, trained.eval()(ids).logits)
    assert not (exported / OPTIMIZER).exists()


def test_what_cannot_be_exported(world: World, many: Path, exported: Path) -> None:
    before = contents(exported)
    full = world.rewarm("export", many, exported)
    assert full.code == 64
    assert "which is not empty" in error_lines(full)[0]
    assert contents(exported) == before
    unknown = world.rewarm("export", many, world.root / "never", "--checkpoint", "step-00000005")
    assert unknown.code == 66
    assert "no checkpoint step-00000005; there are step-00000004, step-00000008" in error_lines(unknown)[0]
    damaged = copied(many, world.root / "damaged")
    flip_byte(checkpoint(damaged, STEPS) / MODEL)
    broken = world.rewarm("export", damaged, world.root / "never")
    assert broken.code == 65
    assert f"step-{STEPS:08d}/{MODEL}: sha256" in error_lines(broken)[0]
    assert not (world.root / "never").exists()


def test_equal_runs_compare_as_a_tie(world: World, many: Path) -> None:
    twin = copied(many, world.root / "twin")
    done = world.rewarm("compare", many, twin, "-o", "json")
    assert done.code == 0
    assert set(done.json["sets"]) == {"code", "general"}
    for line in done.json["sets"].values():
        assert (line["delta"]["mean"], line["delta"]["low"], line["delta"]["high"]) == (0, 0, 0)
        assert (line["verdict"], line["documents"], line["unit"]) == ("Tie", 32, "nats per token")
    table = world.rewarm("compare", many, twin)
    assert "Tie" in table.out
    assert "seed noise" in table.out


def test_a_run_and_a_model_compare_on_the_runs_documents(world: World, exported: Path, many: Path) -> None:
    """The model after 4 of 40 steps is worse than the run, on every set."""
    done = world.rewarm("compare", many, exported, "-o", "json")
    assert done.code == 0, done.err
    report = world.report("many")
    for name, line in done.json["sets"].items():
        assert line["verdict"] == "Lose"
        assert line["delta"]["low"] > 0
        assert line["first"]["loss"] == pytest.approx(report["sets"][name]["final"]["loss"], abs=1e-12)
        assert line["second"]["loss"] > line["first"]["loss"]


# --- buckets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, str]]]:
    """A client of a real server, and the environment that points a process at it."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="corpora")
    client.create_bucket(Bucket="runs")
    yield client, {"AWS_ENDPOINT_URL": address, **access}
    server.stop()


def lines_of(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def best_of(report: dict[str, Any]) -> int:
    """The committed step at which the mean delta over all sets was lowest."""
    looks: dict[int, float] = {}
    for line in report["sets"].values():
        for look in line["history"]:
            if look["tokens"] % 1024 == 0 and look["tokens"]:
                looks[look["tokens"] // 256] = looks.get(look["tokens"] // 256, 0.0) + look["delta"]["mean"]
    return min(looks, key=lambda step: looks[step])


def test_corpora_and_checkpoints_in_buckets_end_to_end(
    world: World, s3: tuple[Any, dict[str, str]], many: Path
) -> None:
    client, access = s3
    manifest = world.manifest(
        "bucket",
        corpus__sources=[{"name": "code", "uri": "s3://corpora/code/*.jsonl", "license": "PSF-2.0", "badLines": 1}],
        replay__sources=[{"name": "general", "uri": "s3://corpora/general.jsonl", "license": "PSF-2.0"}],
        checkpoints={"uri": "s3://runs/bucket/", "every": "10%", "keep": 2},
        training__seed=4,
    )
    early = world.run(manifest, "bucket", **access)
    assert early.code == 66
    assert "s3://corpora/code/*.jsonl: no object matches" in error_lines(early)[0]

    texts = functions()[:300]
    client.put_object(Bucket="corpora", Key="code/a.jsonl", Body=lines_of(texts[:150]))
    client.put_object(Bucket="corpora", Key="code/b.jsonl", Body=b"no JSON\n" + lines_of(texts[150:]))
    client.put_object(Bucket="corpora", Key="general.jsonl", Body=lines_of(paragraphs()[:300]))
    process = world.start("run", manifest, "--workdir", world.root / "bucket", **access)
    read_until(process, lambda line: line.startswith("step 7/"))
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate()
    assert process.returncode == 143, rest
    stopped = world.report("bucket")["checkpoint"]
    assert stopped["uri"] == f"s3://runs/bucket/step-{stopped['step']:08d}"
    client.head_object(Bucket="runs", Key=f"bucket/step-{stopped['step']:08d}/COMMITTED")

    done = world.run(manifest, "bucket", **access)
    assert done.code == 0, done.err
    report = world.report("bucket")
    assert report["attempts"][-1]["first_step"] == stopped["step"] + 1
    assert report["tracking"]["delivered"], "stopped within MLflow's first seconds, it is tracked all the same"
    assert report["bad_lines"] == {"code": 1, "general": 0}
    assert report["checkpoint"]["uri"] == f"s3://runs/bucket/step-{STEPS:08d}"
    assert not list(world.root.glob("bucket/checkpoints/*")), "checkpoints belong into the bucket only"

    listed = world.rewarm("checkpoints", world.root / "bucket", "--verify", "-o", "json", **access)
    assert listed.code == 0, listed.err
    assert [entry["step"] for entry in listed.json] == sorted({36, STEPS, best_of(report)}), "the newest two, the best"
    assert all(entry["verified"] for entry in listed.json)
    compared = world.rewarm("compare", many, world.root / "bucket", "-o", "json", **access)
    assert compared.code == 0, compared.err
    # The same texts in the bucket: the same documents are held out, whatever the files are called.
    assert [line["documents"] for line in compared.json["sets"].values()] == [32, 32]
    assert any(line["delta"]["mean"] != 0 for line in compared.json["sets"].values())

    key = f"bucket/step-{STEPS:08d}/{MODEL}"
    data = bytearray(client.get_object(Bucket="runs", Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket="runs", Key=key, Body=bytes(data))
    assert world.rewarm("checkpoints", world.root / "bucket", "--verify", **access).code == 65


# --- torchrun --------------------------------------------------------------------------------------------------------


def test_two_workers_under_plain_torchrun_go_on_with_the_same_rows(world: World, many: Path) -> None:
    folder = cut_back(many, world.root / "torchrun", 36)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "rewarm_trainer.worker", "--workdir", str(folder), "--cache", str(world.root / "cache" / "rewarm")]
    done = subprocess.run(
        [sys.executable, *torchrun, *worker],
        capture_output=True,
        text=True,
        cwd=world.root,
        env=world.environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = world.report("torchrun")
    assert report["outcome"] == "Succeeded"
    assert (report["attempts"][-1]["first_step"], report["attempts"][-1]["last_step"]) == (37, STEPS)
    started = [line for line in world.log("torchrun") if line.get("event") == "attempt started"]
    assert [line["processes"] for line in started] == [1, 2]
    one, two = (
        {line["step"]: line for line in world.log(name) if "event" not in line} for name in ("many", "torchrun")
    )
    for step in range(37, STEPS + 1):
        assert two[step]["rows"] == one[step]["rows"]
        assert two[step]["loss"] == pytest.approx(one[step]["loss"], abs=1e-4)
    assert world.rewarm("checkpoints", folder, "--verify").code == 0


START_TWICE = """
import sys
from rewarm_trainer import worker
print(*(worker.main(["--workdir", folder]) for folder in sys.argv[1:]))
"""


def test_a_worker_refuses_a_folder_that_is_taken_or_not_prepared(world: World, many: Path) -> None:
    taken, unprepared = cut_back(many, world.root / "taken", 36), world.root / "never-prepared"
    before = contents(taken)
    with open(taken / "state" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-c", START_TWICE, str(taken), str(unprepared)],
            capture_output=True,
            text=True,
            env=world.environment,
            timeout=120,
        )
    assert done.stdout.split() == ["75", "66"], done.stderr
    busy, missing = done.stderr.splitlines()
    assert "another process is writing this work folder" in busy
    assert "not a prepared work folder" in missing
    assert contents(taken) == before
    assert not unprepared.exists()
