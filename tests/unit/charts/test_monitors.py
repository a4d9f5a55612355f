"""Objects of the Prometheus operator: kubernetes-validate does not know them, so their shape is checked here."""

from __future__ import annotations

import pytest
from rendered_chart import of_kind, one, render

MONITORED = {
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
}
# The parts of the Prometheus operator's API (monitoring.coreos.com/v1) that are used here, by name: path -> keys.
SHAPES = {
    "PodMonitor": {
        "spec": {"namespaceSelector", "selector", "podMetricsEndpoints"},
        "spec.namespaceSelector": {"any", "matchNames"},
        "spec.selector": {"matchLabels", "matchExpressions"},
        "spec.podMetricsEndpoints.*": {"port", "path", "interval", "scrapeTimeout", "honorLabels", "relabelings"},
        "spec.podMetricsEndpoints.*.relabelings.*": {"sourceLabels", "targetLabel"},
    },
    "PrometheusRule": {
        "spec": {"groups"},
        "spec.groups.*": {"name", "rules"},
        "spec.groups.*.rules.*": {"alert", "expr", "for", "labels", "annotations"},
    },
}


def parts(value, path):
    """What stands at a dotted path; `*` is every item of a list."""
    first, _, rest = path.partition(".")
    children = value if first == "*" else [value[first]] if first in value else []
    for child in children:
        yield from parts(child, rest) if rest else [child]


@pytest.mark.parametrize("watch", [{}, {"namespaces": ["a", "b"]}, {"clusterWide": True}])
@pytest.mark.parametrize("kind", SHAPES)
def test_objects_of_the_prometheus_operator_have_its_shape(kind, watch):
    for item in of_kind(render({**MONITORED, "watch": watch}), kind):
        assert item["apiVersion"] == "monitoring.coreos.com/v1"
        assert item["metadata"]["labels"]["release"] == "prometheus"
        for path, keys in SHAPES[kind].items():
            for part in parts(item, path):
                assert set(part) <= keys, path
        for endpoint in item["spec"].get("podMetricsEndpoints", ()):
            # A named port is one that the pods have.
            assert endpoint["port"] == "metrics"


def test_monitors_scrape_pods_and_leave_a_runs_own_labels():
    objects = render({"podMonitor": {"enabled": True}, "watch": {"namespaces": ["a", "b"]}})
    operator, runs = one(objects, "PodMonitor", "rewarm-operator"), one(objects, "PodMonitor", "rewarm-runs")
    assert operator["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True
    assert runs["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}
    (endpoint,) = runs["spec"]["podMetricsEndpoints"]
    relabelled = {entry["targetLabel"]: entry["sourceLabels"] for entry in endpoint["relabelings"]}
    assert relabelled["run"] == ["__meta_kubernetes_pod_label_rewarm_dev_run"]
    assert relabelled["namespace"] == ["__meta_kubernetes_namespace"]
    wide = render({"podMonitor": {"enabled": True}, "watch": {"clusterWide": True}})
    assert one(wide, "PodMonitor", "rewarm-runs")["spec"]["namespaceSelector"] == {"any": True}
