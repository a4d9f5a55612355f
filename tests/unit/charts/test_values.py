"""Values are refused by name, with what is wrong; values.yaml, its schema and its comments tell the same."""

from __future__ import annotations

import json
import re

import helm_python as helm
import pytest
import yaml
from rendered_chart import CHART, render

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
# What the API server itself checks when it is applied, and Helm's own.
OPEN = {"/global", "/affinity/nodeAffinity", "/affinity/podAffinity", "/affinity/podAntiAffinity"}

WRONG = [
    ({"replcas": 2}, "additional properties 'replcas'"),
    ({"trainer": {"imge": {}}}, "'/trainer': additional properties 'imge'"),
    ({"replicas": 0}, "'/replicas'"),
    ({"image": {"digest": "latest"}}, "'/image/digest'"),
    ({"checkpoints": {"uri": "/mnt/runs"}}, "'/checkpoints/uri'"),
    ({"tracking": {"uri": "mlflow:5000"}}, "'/tracking/uri'"),
    ({"credentials": [{"secret": "s"}]}, "'/credentials/0'"),
    ({"credentials": ["s", "s"]}, "'/credentials'"),
    ({"environment": {"REWARM_NAMESPACES": "x"}}, "invalid propertyName 'REWARM_NAMESPACES'"),
    ({"trainer": {"environment": {"MASTER_ADDR": "x"}}}, "invalid propertyName 'MASTER_ADDR'"),
    ({"trainer": {"environment": {"N": 1}}}, "'/trainer/environment/N'"),
    ({"podMonitor": {"interval": "15"}}, "'/podMonitor/interval'"),
    ({"podSecurityContext": {"runAsUser": 0}}, "'/podSecurityContext/runAsUser'"),
    ({"podSecurityContext": {"runAsNonRoot": False}}, "'/podSecurityContext': additional properties 'runAsNonRoot'"),
    ({"mlflow": {"extraAllowedHosts": ["a,b"]}}, "'/mlflow/extraAllowedHosts/0'"),
    ({"prometheusRule": {"overrides": {"RewarmRunStalled": {"expr": "1"}}}}, "additional properties 'expr'"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_value_is_refused_and_named(values, said):
    with pytest.raises(helm.HelmValuesError, match=re.escape(said)):
        render(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"watch": {"clusterWide": True, "namespaces": ["a"]}}, "watch.namespaces: found a list beside"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name: found none"),
        (
            {"prometheusRule": {"enabled": True, "overrides": {"RewarmRunStaled": {"enabled": False}}}},
            "found RewarmRunStaled, expected one of RewarmRunStalled",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(values, said):
    with pytest.raises(helm.HelmRenderError, match=re.escape(said)):
        render(values)


def walk(schema, path=""):
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}/{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}/*")


def test_schema_is_closed_everywhere():
    loose = {
        path
        for path, part in walk(SCHEMA)
        if part.get("type") == "object" and part.get("additionalProperties", True) is True
    }
    assert {path.split("/*")[0] for path in loose} == OPEN


def test_schema_and_values_have_the_same_keys():
    def compare(values, schema, path):
        assert set(values) | ({"global"} if not path else set()) == set(schema["properties"]), path
        for key, value in values.items():
            child = schema["properties"][key]
            if isinstance(value, dict) and value and "properties" in child and f"{path}/{key}" not in FREE:
                compare(value, child, f"{path}/{key}")

    compare(VALUES, SCHEMA, "")


FREE = {"/resources", "/mlflow/resources"}


def test_every_value_is_explained():
    """A line `# --` above each leaf that is not plain Kubernetes."""
    plain = {"resources", "requests", "limits", "cpu", "memory", "nodeSelector", "tolerations", "affinity", "interval"}
    plain |= {"topologySpreadConstraints", "priorityClassName", "terminationGracePeriodSeconds", "scrapeTimeout"}
    plain |= {"maxUnavailable", "pullPolicy", "tag", "digest", "repository", "grafana_dashboard"}
    lines = (CHART / "values.yaml").read_text().splitlines()
    silent = []
    for number, line in enumerate(lines):
        match = re.match(r"^ *([A-Za-z_]+):( .+)$", line)
        if match and match[1] not in plain:
            above = number - 1
            while lines[above].lstrip().startswith("#") and "# --" not in lines[above]:
                above -= 1
            if "# --" not in lines[above]:
                silent.append(line)
    assert silent == []


@pytest.mark.parametrize("file", ["docs/install.md", "docs/monitoring.md", "docs/alerts.md", "charts/rewarm/README.md"])
def test_documented_values_exist(file):
    """`--set a.b=c` and `a.b` in backticks are keys of values.yaml."""
    text = (CHART.parents[1] / file).read_text()
    paths = re.findall(r"--set '?([A-Za-z.]+)=", text)
    paths += [
        path
        for path in re.findall(r"`([a-z][A-Za-z]+(?:\.[a-zA-Z]+)+)(?:: [^`]*)?`", text)
        if path.split(".")[0] in VALUES
    ]
    runs_own = {"checkpoints.everyMinutes"}
    for path in set(paths) - runs_own:
        schema = SCHEMA
        for key in path.split("."):
            known = schema.get("properties", {})
            assert key in known or isinstance(schema.get("additionalProperties"), dict), f"{file}: {path}"
            schema = known.get(key, {})
