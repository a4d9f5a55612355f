"""The dashboard *Fleet*: all runs of the chosen namespaces, what their GPUs are used for, and the operator's health.

A standby operator tells nothing about runs, and both count them: so runs are taken by `max`, never summed over pods.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from rewarm_dashboards import parts
from rewarm_dashboards.parts import Column, Panel, Query, bars, lines, number, stacked

UID = "rewarm-fleet"
CHOSEN = '{namespace=~"$namespace"}'
_WAITING = 'summary=~"Pending|Preparing|Queued|Starting"'


def each(metric: str, *labels: str, more: str = "") -> str:
    """One value for each run, whichever operator tells it."""
    chosen = CHOSEN if not more else CHOSEN[:-1] + f", {more}}}"
    return f"max by ({', '.join(('namespace', 'run', *labels))}) ({metric}{chosen})"


USEFUL = f"sum({each('rewarm_run_useful_gpu_seconds_total')})"
ALL = f"sum({each('rewarm_run_gpu_seconds_total')})"
LOST_BY_RUN = f"{each('rewarm_run_gpu_seconds_total')} - {each('rewarm_run_useful_gpu_seconds_total')}"


def build() -> model.Dashboard:
    made = (
        dashboard.Dashboard("Rewarm / Fleet")
        .uid(UID)
        .description("All continual pretraining runs, the GPU time they take, and the operator that serves them.")
        .tags([parts.TAG])
        .editable()
        .refresh("1m")
        .time("now-24h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(parts.variable_datasource())
        .with_variable(parts.variable("namespace", "label_values(rewarm_run_info, namespace)", everything=True))
        .link(parts.link("Run", "/d/rewarm-run"))
    )
    return parts.assemble(
        made, [("Now", _overview()), ("Runs", _runs()), ("GPU time", _goodput()), ("Operator", _operator())]
    )


def _overview() -> list[Panel]:
    return [
        number(
            "Runs in training",
            "Runs whose condition Running is True.",
            "none",
            Query(f"count({each('rewarm_run_condition', more=_is('Running', 'True'))}) or vector(0)", "running"),
        ),
        number(
            "Waiting for a place",
            "Runs that do not train yet: Pending, Preparing, Queued (Kueue, or no room) or Starting.",
            "none",
            Query(f"count({each('rewarm_run_info', more=_WAITING)}) or vector(0)", "waiting"),
        ),
        number(
            "In trouble",
            "Runs that are Stalled or Degraded.",
            "none",
            Query(
                "count(max by (namespace, run) (rewarm_run_condition"
                f'{CHOSEN[:-1]}, condition=~"Stalled|Degraded", status="True"}})) or vector(0)',
                "in trouble",
            ),
        ).thresholds(parts.steps((None, "text"), (1, "orange"))),
        number(
            "GPUs held",
            "GPUs of the attempts that run now.",
            "none",
            Query(f"sum({each('rewarm_run_gpus')})", "GPUs"),
        ),
        number(
            "Goodput",
            "GPU time whose training was not lost to restarts, of all GPU time, over the runs that still exist.",
            "percentunit",
            Query(f"{USEFUL} / {ALL}", "goodput"),
        ).thresholds(parts.steps((None, "red"), (0.8, "orange"), (0.95, "green"))),
        number(
            "Leader",
            "Operators that hold the Lease: one. Zero means that nothing is started, retried or judged.",
            "none",
            Query("sum(rewarm_operator_leader)", "leaders"),
        ).thresholds(parts.steps((None, "red"), (1, "green"), (2, "red"))),
    ]


def _runs() -> list[Panel]:
    run = "/d/rewarm-run?var-namespace=${__data.fields.namespace}&var-run=${__data.fields.run}"
    columns = [
        Column(each("rewarm_run_info", "summary"), "State", "none"),
        Column(each("rewarm_run_progress_ratio"), "Progress", "percentunit"),
        Column(each("rewarm_run_gain_mean"), "Gain", parts.NATS),
        Column(each("rewarm_run_forgetting_max"), "Forgetting", parts.NATS),
        Column(each("rewarm_run_tokens_per_second"), "Tokens/s", "short"),
        Column(each("rewarm_run_attempts"), "Attempts", "none"),
        Column(each("rewarm_run_gpus"), "GPUs", "none"),
    ]
    return [
        parts.grid(
            "All runs",
            "Every run that exists; a click on its name opens it. Forgetting is high early on in good runs too.",
            ["namespace", "summary", "run"],
            columns,
            run,
        ),
        stacked(
            "Runs by state",
            "Runs by the operator's summary of them.",
            "none",
            Query(f"count by (summary) ({each('rewarm_run_info', 'summary')})", "{{summary}}"),
        ),
        bars(
            "Runs by condition",
            "Runs of all namespaces whose condition is True. Stalled and Degraded should be empty.",
            "none",
            Query('max by (condition) (rewarm_operator_runs{status="True"})', "{{condition}}", instant=True),
        ),
        lines(
            "Failures and disruptions",
            "Sum over runs. Failures (since each run's last commit) are the runs' own; disruptions are the cluster's.",
            "none",
            Query(f"sum({each('rewarm_run_failures')})", "failures"),
            Query(f"sum({each('rewarm_run_disruptions')})", "disruptions"),
        ),
        lines(
            "Tokens per second",
            "Training speed by namespace.",
            "short",
            Query(f"sum by (namespace) ({each('rewarm_run_tokens_per_second')})", "{{namespace}}"),
        ),
    ]


def _goodput() -> list[Panel]:
    return [
        stacked(
            "GPU hours, useful and lost",
            "GPU hours of the attempts of all runs that still exist. Lost: training that had to be done again.",
            "h",
            Query(f"{USEFUL} / 3600", "useful"),
            Query(f"({ALL} - {USEFUL}) / 3600", "lost"),
        ),
        bars(
            "GPU hours lost, by run",
            "The ten runs that lost most to restarts: commit more often, or look at their attempts.",
            "h",
            Query(f"topk(10, {LOST_BY_RUN}) / 3600", "{{namespace}}/{{run}}", instant=True),
        ),
    ]


def _operator() -> list[Panel]:
    latency = "sum by (le) (rate(rewarm_operator_reconcile_seconds_bucket[$__rate_interval]))"
    return [
        lines(
            "Queue depth",
            "Runs that wait for the operator's visit. It empties within seconds; one that stays says: too slow.",
            "none",
            Query("max by (namespace) (rewarm_operator_queue_depth)", "{{namespace}}"),
            width=8,
        ),
        lines(
            "Reconcile latency",
            "How long one visit to a run takes: half, and all but one in a hundred, are quicker.",
            "s",
            Query(f"histogram_quantile(0.5, {latency})", "median"),
            Query(f"histogram_quantile(0.99, {latency})", "99 %"),
            width=8,
        ),
        lines(
            "Visits",
            "Visits to runs, by how they ended. Errors are tried again, with growing pauses.",
            "reqps",
            Query("sum by (result) (rate(rewarm_operator_reconcile_seconds_count[$__rate_interval]))", "{{result}}"),
            width=8,
        ),
        lines(
            "API requests",
            "Requests to the API server, by verb. With nothing changing there are only the Lease and lists.",
            "reqps",
            Query("sum by (verb) (rate(rewarm_operator_api_requests_total[$__rate_interval]))", "{{verb}}"),
            width=8,
        ),
        lines(
            "API errors",
            "Answers that are errors (409 conflicts are normal now and then), and requests without an answer.",
            "reqps",
            Query(
                'sum by (verb, code) (rate(rewarm_operator_api_requests_total{code!~"2.."}[$__rate_interval]))',
                "{{verb}} {{code}}",
            ),
            width=8,
        ),
        lines(
            "Leader by pod",
            "1 in the operator that is active. The line moves to another pod when one is replaced.",
            "none",
            Query("max by (namespace, pod, instance) (rewarm_operator_leader)", "{{pod}} {{instance}}"),
            width=8,
        ).decimals(0),
    ]


def _is(condition: str, status: str) -> str:
    return f'condition="{condition}", status="{status}"'
