"""`rewarm study`: runs on a grid of ratios on this machine, and the law that they give. Thin: the trainer does it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewarm_api.errors import ManifestError, Problem
from rewarm_api.quantity import QuantityError, format_tokens, parse_tokens
from rewarm_cli import document
from rewarm_cli.output import Output, emit, say, show, table, warn
from rewarm_cli.plan import refuse


def execute(
    path: Path, changes: Sequence[str], workdir: Path | None, at: str, extrapolate: bool, output: Output
) -> int:
    """0; 64 for an invalid manifest or a question outside what was measured; else the code of the run that failed."""
    from rewarm_api.study_rules import validate_study

    given = document.read(path, changes)
    checked = validate_study(given, local=True)
    if checked.study is None:
        answer = document.validation_json(checked.problems, checked.warnings)
        return refuse(answer, ManifestError(checked.problems), output)
    warn(checked.warnings)
    if checked.unused:
        say(f"a study on this machine has no use for: {', '.join(checked.unused)}")
    places = parse_places(at)

    from rewarm_trainer.study.artefact import laws_of, predictions
    from rewarm_trainer.study.run import run_study

    folder = workdir or Path("studies") / checked.study.metadata.name
    artefact = run_study(checked.study, path, folder)
    asked: list[Any] = []
    if places:
        laws = laws_of(artefact, [tokens for _, tokens in places])
        for ratio, tokens in places:
            asked += predictions(laws, artefact, ratio, tokens, extrapolate)
    warn(artefact["warnings"])
    if output is Output.JSON:
        emit({**artefact, "predicted": asked} if places else artefact)
    else:
        _show(artefact, asked)
        print(folder.absolute() / "study.json")
    return 0


def parse_places(text: str) -> list[tuple[float, int]]:
    """(replay ratio, tokens) of `RATIO@TOKENS,...`. ManifestError (64) for anything else."""
    places = []
    for part in filter(None, text.split(",")):
        ratio, separator, tokens = part.partition("@")
        try:
            place = (float(ratio), parse_tokens(int(tokens) if tokens.isdigit() else tokens))
        except (ValueError, QuantityError):
            separator = ""
        if not separator or not 0 <= place[0] < 1:
            expected = "RATIO@TOKENS with 0 <= RATIO < 1"
            raise ManifestError(Problem("--at", part, expected, "write for example --at 0.3@1M"))
        places.append(place)
    return places


def _show(artefact: dict[str, Any], asked: Sequence[dict[str, Any]]) -> None:
    sets = list(artefact["sets"])
    runs = [
        (
            run["label"] + (" (held out)" if run["held_out"] else ""),
            f"{run['replay_ratio']:.4g}",
            format_tokens(run["tokens"]),
            *(f"{run['losses'][name]:.4f}" for name in sets),
        )
        for run in artefact["runs"]
    ]
    columns = ("run", "replay", "tokens", *(f"loss of {name}" for name in sets))
    show(
        table(f"Study {artefact['name']}: {len(runs)} runs", columns, runs),
        table("Laws", ("set", "law", "fit R2", "fit error", "hold-out error", "by"), _laws(artefact), words=2),
        table("Answers", ("question", "place", "replay", "95 % interval", "law"), _answers(artefact), words=2),
    )
    rows = [
        (f"{item['replay_ratio']:.4g} @ {format_tokens(item['tokens'])}", item["model"], name, *_prediction(value))
        for item in asked
        for name, value in item["sets"].items()
    ]
    if rows:
        show(table("Predicted", ("place", "model", "set", "loss", "95 % interval", "law"), rows, words=3))
    for answer in [*artefact["answers"]["largest_share"], *artefact["answers"]["best_for_corpus"]]:
        if answer["why"]:
            say(f"note: {answer['why']}")


def _prediction(value: dict[str, Any]) -> tuple[str, str, str]:
    return f"{value['loss']:.4f}", _interval(value["low"], value["high"]), value["law"]


def _laws(artefact: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, laws in artefact["laws"].items():
        fitted = [(f"CMR at {format_tokens(law['tokens'])}", law) for law in laws["cmr"]]
        fitted += [("D-CPT", laws["dcpt"])] if laws["dcpt"] else []
        for words, law in fitted:
            held, r2 = law["hold_out"], law["fit"]["r2"]
            error, by = (f"{held['mean']:.2g}", held["by"]) if held else ("", "")
            shown = "" if r2 is None else f"{r2:.4f}"
            rows.append((name, words, shown, f"{law['fit']['mean']:.2g}", error, by))
    return rows


def _answers(artefact: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for answer in artefact["answers"]["largest_share"]:
        words = f"largest share of new text, old within {answer['tolerance']}"
        rows.append((words, _place(answer, answer["tokens"]), *_choice(answer)))
    for answer in artefact["answers"]["best_for_corpus"]:
        words = f"best for {format_tokens(answer['corpus_tokens'])} tokens of new text"
        rows.append((words, _place(answer, answer.get("tokens")), *_choice(answer)))
    return rows


def _place(answer: dict[str, Any], tokens: int | None) -> str:
    return " ".join(filter(None, (answer["model"], "" if tokens is None else f"{format_tokens(tokens)} tokens")))


def _choice(answer: dict[str, Any]) -> tuple[str, str, str]:
    if answer["replay_ratio"] is None:
        return "none", "", ""
    low, high = answer["low"], answer["high"]
    # Shares of new text turn round when read as replay.
    turned = _interval(None if high is None else 1 - high, None if low is None else 1 - low)
    return f"{answer['replay_ratio']:.4g}", turned, answer["law"]


def _interval(low: float | None, high: float | None) -> str:
    return "too few runs" if low is None or high is None else f"{low:.4f} to {high:.4f}"
