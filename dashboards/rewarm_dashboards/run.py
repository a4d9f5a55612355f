"""The dashboard *Run*: one run, from its first look to its verdict.

Numbers come from the training pod while it lives (scraped every few seconds) and from the operator, which tells them
again from the run's status when the pod is gone: `trainer or operator`, of which either may be missing.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from rewarm_dashboards import parts
from rewarm_dashboards.parts import Panel, Query, lines, number, stacked

UID = "rewarm-run"
CHOSEN = '{namespace="$namespace", run="$run"}'
_ANY_RUN = '{__name__=~"rewarm_run_info|rewarm_training_target_tokens"'


def newest(trainer: str, operator: str, *labels: str) -> str:
    """One line for each value of `labels`, from the pod or else from the status."""
    by = f"max by ({', '.join(('namespace', 'run', *labels))})"
    return f"{by} ({trainer}{CHOSEN}) or {by} ({operator}{CHOSEN})"


def of_operator(metric: str, *labels: str, more: str = "") -> str:
    chosen = CHOSEN if not more else CHOSEN[:-1] + f", {more}}}"
    return f"max by ({', '.join(('namespace', 'run', *labels))}) ({metric}{chosen})"


def of_trainer(metric: str, *labels: str) -> str:
    return f"max by ({', '.join(('namespace', 'run', *labels))}) ({metric}{CHOSEN})"


PROGRESS = (
    f"max by (namespace, run) (rewarm_training_tokens_total{CHOSEN})"
    f" / max by (namespace, run) (rewarm_training_target_tokens{CHOSEN} > 0)"
    f" or max by (namespace, run) (rewarm_run_progress_ratio{CHOSEN})"
)
DELTA = newest("rewarm_eval_delta", "rewarm_run_eval_delta", "set", "role")
BASELINE = (
    f"max by (namespace, run, set, role) (rewarm_eval_loss{CHOSEN} - rewarm_eval_delta{CHOSEN})"
    f" or max by (namespace, run, set, role) (rewarm_run_eval_baseline_loss{CHOSEN})"
)
FORGETTING = (
    f"max by (namespace, run) (rewarm_forgetting{CHOSEN})"
    f" or max by (namespace, run) (rewarm_run_forgetting_max{CHOSEN})"
)
GAIN = (
    f'-avg by (namespace, run) (max by (namespace, run, set) (rewarm_eval_delta{CHOSEN[:-1]}, role="New"}}))'
    f" or max by (namespace, run) (rewarm_run_gain_mean{CHOSEN})"
)
_RETAINED = f'{CHOSEN[:-1]}, role="Retained"}}'
RETAINED_DELTA = (
    f"max by (namespace, run, set) (rewarm_eval_delta{_RETAINED})"
    f" or max by (namespace, run, set) (rewarm_run_eval_delta{_RETAINED})"
)
GAP_DEPTH = f"max(clamp_min(max_over_time(({RETAINED_DELTA})[$__range:1m]), 0))"
AGE = (
    f"max by (namespace, run) (rewarm_checkpoint_age_seconds{CHOSEN})"
    f" or time() - max by (namespace, run) (rewarm_run_checkpoint_committed_timestamp_seconds{CHOSEN})"
)

GAP = (
    "Loss above the base's on every Retained set, in nats per token; above zero is worse. GOOD RUNS LOOK BAD EARLY: "
    "after the start, and after each phase border, loss on old data rises and then falls again (the stability gap). "
    "Judge what is left when the learning rate has decayed, not the peak: the gates do the same."
)


def build() -> model.Dashboard:
    made = (
        dashboard.Dashboard("Rewarm / Run")
        .uid(UID)
        .description("One continual pretraining run: what it learned, what it forgot, and what it costs.")
        .tags([parts.TAG])
        .editable()
        .refresh("30s")
        .time("now-24h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(parts.variable_datasource())
        .with_variable(parts.variable("namespace", f"label_values({_ANY_RUN}}}, namespace)"))
        .with_variable(parts.variable("run", f'label_values({_ANY_RUN}, namespace="$namespace"}}, run)'))
        .link(parts.link("Fleet", "/d/rewarm-fleet"))
    )
    return parts.assemble(
        made,
        [
            ("Where it is", _overview()),
            ("What it learned and what it forgot", _evaluation()),
            ("Training", _training()),
            ("Keeping it safe", _operations()),
        ],
    )


def _overview() -> list[Panel]:
    return [
        number(
            "State",
            "The operator's one-word summary of the run; conditions say more (kubectl rewarm status).",
            "none",
            Query(of_operator("rewarm_run_info", "summary"), "{{summary}}", instant=True),
        ).text_mode(parts.common_model.BigValueTextMode.NAME),
        number("Progress", "Tokens trained, of those planned.", "percentunit", Query(PROGRESS, "progress")),
        number(
            "Gain",
            "Mean loss decrease on New sets since the base, in nats per token; above zero is better.",
            parts.NATS,
            Query(GAIN, "gain"),
        )
        .decimals(4)
        .thresholds(parts.steps((None, "text"), (0, "green"))),
        number(
            "Forgetting",
            "Largest loss increase on a Retained set since the base, in nats per token. High early in good runs: see "
            "the stability gap below.",
            parts.NATS,
            Query(FORGETTING, "forgetting"),
        ).decimals(4),
        number(
            "Stability gap",
            "Deepest loss increase on any Retained set at any look of the shown time, in nats per token. A maximum "
            "over noisy looks lies too high; the report has its interval.",
            parts.NATS,
            Query(GAP_DEPTH, "depth", instant=True),
        ).decimals(4),
        number(
            "Checkpoint age",
            "Time since the newest commit (or since the process began): what a lost node would cost.",
            "s",
            Query(AGE, "age"),
        ).thresholds(parts.steps((None, "text"), (3600, "orange"), (7200, "red"))),
    ]


def _evaluation() -> list[Panel]:
    return [
        lines(
            "Loss per set",
            "Loss at every look, in nats per token; dashed: the untouched base on the same documents.",
            parts.NATS,
            Query(newest("rewarm_eval_loss", "rewarm_run_eval_loss", "set", "role"), "{{set}} ({{role}})"),
            Query(BASELINE, "{{set}} base"),
        ).decimals(4),
        lines(
            "Change since the base",
            "Loss minus the base's on the same documents, in nats per token: below zero is better. New sets should "
            "fall, Retained ones come back to zero.",
            parts.NATS,
            Query(DELTA, "{{set}} ({{role}})"),
        ).decimals(4),
        lines(
            "Forgetting and gain",
            "Forgetting: largest increase on a Retained set (worse above zero); gain: mean decrease on New sets "
            "(better above zero), in nats per token. Dashed: gates.maxForgetting, judged at the end of the run.",
            parts.NATS,
            Query(FORGETTING, "forgetting"),
            Query(GAIN, "gain"),
            Query(of_operator("rewarm_run_forgetting_budget"), "budget"),
        ).decimals(4),
        lines(
            "Stability gap",
            GAP,
            parts.NATS,
            Query(RETAINED_DELTA, "{{set}}"),
            Query(of_operator("rewarm_run_forgetting_budget"), "budget"),
        ).decimals(4),
    ]


def _training() -> list[Panel]:
    return [
        lines(
            "Training loss",
            "Loss of the newest log step over the whole mixture, in nats per token. It rises while the learning rate "
            "re-warms: by tenths of a nat in a healthy run.",
            parts.NATS,
            Query(of_trainer("rewarm_training_loss"), "loss"),
        ),
        lines(
            "Training loss by source",
            "Loss of the newest log step in each source, in nats per token. One that rises alone is hard, or broken.",
            parts.NATS,
            Query(of_trainer("rewarm_source_loss", "source"), "{{source}}"),
        ),
        lines(
            "Learning rate",
            "Learning rate of the newest update: re-warmed, held, decayed.",
            "sci",
            Query(newest("rewarm_learning_rate", "rewarm_run_learning_rate"), "learning rate"),
            width=8,
        ),
        lines(
            "Gradient norm",
            "Norm of the gradient before clipping. Single spikes are harmless; a climb comes before divergence.",
            "none",
            Query(of_trainer("rewarm_gradient_norm"), "norm"),
            width=8,
        ),
        lines(
            "Replay share",
            "Share of replay in all training rows so far, against what was asked for. They meet as rows add up; "
            "onForgetting: RaiseReplay moves both.",
            "percentunit",
            Query(newest("rewarm_replay_share", "rewarm_run_replay_share"), "realised"),
            Query(newest("rewarm_replay_ratio_requested", "rewarm_run_replay_ratio_requested"), "asked"),
            width=8,
        ),
        lines(
            "Tokens per second",
            "Training speed over the newest log interval, all processes together. Looks and commits pause it.",
            "short",
            Query(newest("rewarm_tokens_per_second", "rewarm_run_tokens_per_second"), "tokens/s"),
        ),
        stacked(
            "Tokens by source",
            "Tokens trained from each source since the run began; a new attempt goes on where its checkpoint was.",
            "short",
            Query(of_trainer("rewarm_source_tokens_total", "source"), "{{source}}"),
        ),
    ]


def _operations() -> list[Panel]:
    return [
        lines("Checkpoint age", "Time since the newest commit; every fall is a commit.", "s", Query(AGE, "age")),
        lines(
            "Attempts",
            "Attempts made, disruptions (preempted, evicted, node lost), and failures since the last new commit. "
            "Each has its own budget in spec.retries.",
            "none",
            Query(newest("rewarm_attempt", "rewarm_run_attempts"), "attempts"),
            Query(of_operator("rewarm_run_failures"), "failures"),
            Query(of_operator("rewarm_run_disruptions"), "disruptions"),
        ).decimals(0),
        stacked(
            "Where time goes",
            "Time that this attempt's process spent so far, by activity: what is not training is overhead.",
            "s",
            Query(of_trainer("rewarm_activity_seconds", "activity"), "{{activity}}"),
            width=8,
        ),
        lines(
            "Duration of looks and commits",
            "Time that the newest look and the newest commit took. Training stands still in a look.",
            "s",
            Query(of_trainer("rewarm_eval_duration_seconds"), "look"),
            Query(of_trainer("rewarm_checkpoint_duration_seconds"), "commit"),
            width=8,
        ),
        lines(
            "GPU hours",
            "GPU hours of this run's attempts, and those of them whose training was not lost to a restart.",
            "h",
            Query(of_operator("rewarm_run_gpu_seconds_total") + " / 3600", "all"),
            Query(of_operator("rewarm_run_useful_gpu_seconds_total") + " / 3600", "useful"),
            width=8,
        ),
    ]
