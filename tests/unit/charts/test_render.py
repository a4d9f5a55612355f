"""The chart over a matrix of values: every object is what the API server's schema wants, and what people rely on."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from rendered_chart import CHART, of_kind, one, render

ROOT = CHART.parents[1]
VERSION = "1.36"
# Kinds that kubernetes-validate does not know; their shape is checked here.
FOREIGN = {"CustomResourceDefinition", "PodMonitor", "PrometheusRule"}

EVERYTHING = {
    "replicas": 2,
    "image": {"digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "trainer": {
        "serviceAccountName": "trainers",
        "scratchSizeLimit": "200Gi",
        "environment": {"HTTPS_PROXY": "http://p:1"},
    },
    "checkpoints": {"uri": "s3://bucket/runs/"},
    "cache": {"uri": "s3://bucket/cache/"},
    "tracking": {"operatorSecret": "mlflow-operator"},
    "credentials": ["bucket", "mlflow"],
    "rbac": {"userRoles": True},
    "serviceAccount": {"annotations": {"a": "b"}},
    "commonLabels": {"team": "ml", "app.kubernetes.io/name": "not-this"},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d", "app.kubernetes.io/instance": "nor-this"},
    "environment": {"SSL_CERT_FILE": "/tmp/ca.pem"},
    "podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000},
    "nodeSelector": {"pool": "cpu"},
    "tolerations": [{"key": "cpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "system",
    "service": {"annotations": {"a": "b"}},
    "podDisruptionBudget": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 9000}]}],
    },
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Rewarm"}},
    "mlflow": {"enabled": True, "existingClaim": "mlflow"},
}
MODES = {
    "own namespace": {},
    "several namespaces": {"watch": {"namespaces": ["team-a", "team-b"]}},
    "cluster-wide": {"watch": {"clusterWide": True}},
}
PARTS = {
    "defaults": {},
    "everything": EVERYTHING,
    "nothing": {
        "progress": {"enabled": False},
        "crds": {"enabled": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "existing"},
        "tests": {"enabled": False},
    },
    "own certificate": {"progress": {"existingSecret": "issued"}, "mlflow": {"enabled": True}},
    "kept elsewhere": {
        "crds": {"keep": False},
        "tracking": {"uri": "https://mlflow.example.org"},
        **{"networkPolicy": {"enabled": True}},
    },
}
MATRIX = [
    pytest.param({**MODES[mode], **PARTS[part]}, id=f"{mode}, {part}") for mode, part in itertools.product(MODES, PARTS)
]


def containers(item):
    spec = item["spec"]["template"]["spec"] if "template" in item["spec"] else item["spec"]
    return spec, spec["containers"]


@pytest.mark.parametrize("values", MATRIX)
def test_every_object_is_valid_and_has_a_name_of_its_own(values):
    objects = render(values, name="alpha", namespace="ml")
    for item in objects:
        if item["kind"] not in FOREIGN:
            kubernetes_validate.validate(item, VERSION, strict=True)
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "rewarm"
        assert item["metadata"]["labels"]["app.kubernetes.io/name"] == "rewarm"
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(names) == len(set(names))
    clusterwide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert all((kind in clusterwide) == (namespace is None) for kind, namespace, _ in names)


@pytest.mark.parametrize("values", MATRIX)
def test_pods_are_restricted_and_repeat_no_name(values):
    objects = render(values, name="alpha", namespace="ml")
    for item in of_kind(objects, "Deployment") + of_kind(objects, "Pod"):
        spec, made = containers(item)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = [volume["name"] for volume in spec["volumes"]]
        assert len(volumes) == len(set(volumes))
        assert not any("hostPath" in volume for volume in spec["volumes"])
        for container in made:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            for part, key in (
                ("env", "name"),
                ("ports", "name"),
                ("ports", "containerPort"),
                ("volumeMounts", "mountPath"),
            ):
                found = [entry[key] for entry in container.get(part, ())]
                assert len(found) == len(set(found)), (part, found)
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


@pytest.mark.parametrize("values", MATRIX)
def test_selectors_find_exactly_their_pods(values):
    objects = render(values, name="alpha", namespace="ml")
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in of_kind(objects, "Deployment")
    }
    pods |= {item["metadata"]["name"]: item["metadata"]["labels"] for item in of_kind(objects, "Pod")}

    def found(selector):
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for item in of_kind(objects, "Deployment") + of_kind(objects, "PodDisruptionBudget"):
        own = item["metadata"]["name"]
        assert found(item["spec"]["selector"]["matchLabels"]) == {own}
    for service in of_kind(objects, "Service"):
        (target,) = found(service["spec"]["selector"])
        _, (container,) = containers(one(objects, "Deployment", target))
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {
            port["name"] for port in container["ports"]
        }


def test_parts_come_only_when_asked_for():
    optional = {
        "PodMonitor": "podMonitor", "PrometheusRule": "prometheusRule", "NetworkPolicy": "networkPolicy",
        "PodDisruptionBudget": "podDisruptionBudget", "ConfigMap": "dashboards",
    }  # fmt: skip
    plain = {item["kind"] for item in render()}
    assert plain.isdisjoint(optional)
    for kind, flag in optional.items():
        assert of_kind(render({flag: {"enabled": True}}), kind), flag
    assert len(of_kind(render(), "Deployment")) == 1
    assert len(of_kind(render({"mlflow": {"enabled": True}}), "Deployment")) == 2


@pytest.mark.parametrize("plural", ["continualruns", "mixturestudies"])
def test_crd_is_the_generated_one_and_outlives_the_release(plural):
    made = one(render(), "CustomResourceDefinition", f"{plural}.rewarm.dev")
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert made["spec"] == yaml.safe_load((ROOT / "crds" / f"{plural}.yaml").read_text())["spec"]
    given = one(render({"crds": {"keep": False}}), "CustomResourceDefinition", f"{plural}.rewarm.dev")
    assert "annotations" not in given["metadata"]
    assert not of_kind(render({"crds": {"enabled": False}}), "CustomResourceDefinition")


@pytest.mark.parametrize("plural", ["continualruns", "mixturestudies"])
def test_crd_file_of_the_chart_is_not_stale(plural):
    message = f"charts/rewarm/files/{plural}.yaml is stale: make crds"
    assert (CHART / "files" / f"{plural}.yaml").read_text() == (ROOT / "crds" / f"{plural}.yaml").read_text(), message


def test_images_by_digest_or_by_the_versions_tag():
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    def images(values):
        objects = render(values)
        _, (container,) = containers(one(objects, "Deployment", "rewarm"))
        trainer = next(entry["value"] for entry in container["env"] if entry["name"] == "REWARM_TRAINER_IMAGE")
        return container["image"], trainer

    assert images({}) == (f"localhost/rewarm-operator:{version}", f"localhost/rewarm-trainer:{version}")
    digest = "sha256:" + "0" * 64
    asked = {
        "image": {"repository": "r/o", "tag": "x", "digest": digest},
        "trainer": {"image": {"repository": "r/t", "tag": "y"}},
    }
    assert images(asked) == (f"r/o@{digest}", "r/t:y")


def test_every_setting_is_read_by_the_operator(tmp_path: Path):
    """The rendered environment goes through the operator's own reader: no name is misspelt, no value refused."""
    from rewarm_operator import environment
    from rewarm_operator.settings import Settings

    objects = render(
        {**EVERYTHING, "tracking": {"uri": "http://mlflow:5000"}, "watch": {"namespaces": ["a", "b"]}}, namespace="ml"
    )
    given = {
        entry["name"]: entry.get("value", "from-pod")
        for entry in containers(one(objects, "Deployment", "rewarm"))[1][0]["env"]
    }
    known = {f"REWARM_{name.upper()}" for name in Settings.__dataclass_fields__}
    known |= {"REWARM_PROGRESS_CERTIFICATE", "REWARM_PROGRESS_KEY", "REWARM_PROGRESS_CA_FILE", "REWARM_LOG_LEVEL"}
    assert {name for name in given if name.startswith("REWARM_")} <= known
    secret = one(objects, "Secret")["data"]
    for name, key in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("CA_FILE", "ca.crt")):
        assert given[f"REWARM_PROGRESS_{name}"] == f"/etc/rewarm/progress/{key}"
        (tmp_path / key).write_bytes(base64.b64decode(secret[key]))
        given[f"REWARM_PROGRESS_{name}"] = str(tmp_path / key)
    settings = environment.read(given).settings
    assert settings.namespaces == ("a", "b")
    assert settings.default_checkpoints_uri == "s3://bucket/runs/"
    assert settings.default_cache_uri == "s3://bucket/cache/"
    assert settings.default_tracking_uri == "http://mlflow:5000"
    assert settings.default_credentials == ("bucket", "mlflow")
    assert settings.progress_url == "https://rewarm.ml.svc:8443"
    assert settings.progress_ca.startswith("-----BEGIN CERTIFICATE-----")
    assert settings.environment == {"HTTPS_PROXY": "http://p:1"}
    assert settings.service_account == "trainers"
    assert settings.scratch_size_limit == "200Gi"


def test_defaults_of_the_chart_are_those_of_the_operator():
    from rewarm_operator.settings import Settings

    (container,) = containers(one(render(), "Deployment"))[1]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    for name in (
        "heartbeat_timeout_seconds",
        "stuck_margin_seconds",
        "status_interval_seconds",
        "resync_seconds",
        "lease_seconds",
    ):
        assert given[f"REWARM_{name.upper()}"] == str(getattr(Settings(), name))
    assert (given["REWARM_PREPARE_CPU"], given["REWARM_PREPARE_MEMORY"]) == (
        Settings().prepare_cpu,
        Settings().prepare_memory,
    )


def test_certificate_is_for_the_services_names():
    import ssl

    objects = render(name="alpha", namespace="ml")
    secret = one(objects, "Secret")
    assert secret["type"] == "kubernetes.io/tls"
    assert set(secret["data"]) == {"ca.crt", "tls.crt", "tls.key"}
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    assert len(context.get_ca_certs()) == 1
    (container,) = containers(one(objects, "Deployment"))[1]
    url = next(entry["value"] for entry in container["env"] if entry["name"] == "REWARM_PROGRESS_URL")
    assert url == "https://alpha-rewarm.ml.svc:8443"
    assert url.split("/")[2].split(":")[0].split(".")[0] == one(objects, "Service")["metadata"]["name"]
    issued = render({"progress": {"existingSecret": "issued"}})
    assert not of_kind(issued, "Secret")
    volumes = {volume["name"]: volume for volume in containers(one(issued, "Deployment"))[0]["volumes"]}
    assert volumes["progress-tls"]["secret"]["secretName"] == "issued"


def test_two_releases_share_no_name():
    first = {
        (i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"])
        for i in render(EVERYTHING, name="one", namespace="ml")
    }
    second = {
        (i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"])
        for i in render(EVERYTHING, name="two", namespace="ml")
    }
    other = {
        (i["kind"], i["metadata"].get("namespace"), i["metadata"]["name"])
        for i in render(EVERYTHING, name="one", namespace="lab")
    }
    assert {kind for kind, _, _ in first & second} == {"CustomResourceDefinition"}
    assert {kind for kind, _, _ in first & other} == {"CustomResourceDefinition"}


def test_mlflow_answers_to_its_services_names():
    objects = render({"mlflow": {"enabled": True, "extraAllowedHosts": ["mlflow.example.org"]}}, namespace="ml")
    (container,) = containers(one(objects, "Deployment", "rewarm-mlflow"))[1]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    hosts = given["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"rewarm-mlflow:5000", "rewarm-mlflow.ml:5000", "rewarm-mlflow.ml.svc:5000", "mlflow.example.org"} <= set(
        hosts
    )
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "--workers=1" in container["command"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 120
    (operator,) = containers(one(objects, "Deployment", "rewarm"))[1]
    tracking = next(entry["value"] for entry in operator["env"] if entry["name"] == "REWARM_DEFAULT_TRACKING_URI")
    assert tracking == "http://rewarm-mlflow.ml.svc:5000"
    assert tracking.removeprefix("http://") in hosts
    claimed = render({"mlflow": {"enabled": True, "existingClaim": "kept"}})
    volumes = {
        volume["name"]: volume for volume in containers(one(claimed, "Deployment", "rewarm-mlflow"))[0]["volumes"]
    }
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "kept"}


def test_network_policies_open_what_is_needed():
    objects = render({"networkPolicy": {"enabled": True}, "tracking": {"uri": "http://mlflow.lab.svc:5001"}})
    operator, runs = (
        one(objects, "NetworkPolicy", "rewarm-operator")["spec"],
        one(objects, "NetworkPolicy", "rewarm-runs")["spec"],
    )
    assert [rule["ports"][0]["port"] for rule in operator["ingress"]] == [8443, 9401]
    assert {port["port"] for rule in operator["egress"] for port in rule["ports"]} == {53, 443, 6443, 8443, 5001}
    assert runs["policyTypes"] == ["Ingress"]
    among, metrics = runs["ingress"]
    assert "ports" not in among, "collective libraries choose their ports as they like"
    assert metrics["ports"] == [{"protocol": "TCP", "port": 9400}]
    several = render({"networkPolicy": {"enabled": True}, "watch": {"namespaces": ["a", "b"]}})
    assert {item["metadata"]["namespace"] for item in of_kind(several, "NetworkPolicy", "rewarm-runs")} == {"a", "b"}


def test_helm_test_makes_real_calls_with_the_right_accounts():
    objects = render(
        {"checkpoints": {"uri": "s3://b/runs/"}, "credentials": ["bucket"], "watch": {"namespaces": ["a", "b"]}}
    )
    cluster, storage = one(objects, "Pod", "rewarm-test-cluster"), one(objects, "Pod", "rewarm-test-storage")
    for pod in (cluster, storage):
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        assert pod["spec"]["restartPolicy"] == "Never"
    assert cluster["spec"]["serviceAccountName"] == "rewarm"
    assert cluster["spec"]["containers"][0]["command"] == ["python", "-m", "rewarm_operator.selftest"]
    assert storage["metadata"]["namespace"] == "a"
    assert storage["spec"]["automountServiceAccountToken"] is False
    assert storage["spec"]["containers"][0]["command"] == [
        "python",
        "-m",
        "rewarm_trainer.storage_probe",
        "s3://b/runs/",
    ]
    assert storage["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert not of_kind(render({"checkpoints": {"uri": "claim://data/runs/"}}), "Pod", "rewarm-test-storage")
    assert not of_kind(render({"tests": {"enabled": False}}), "Pod")
    # Nothing else is a hook, and nothing waits for a network before it is installed.
    assert all(
        item["metadata"].get("annotations", {}).get("helm.sh/hook") in (None, "test") for item in render(EVERYTHING)
    )


def test_helm_itself_finds_nothing_to_blame():
    for values in ({}, EVERYTHING):
        report = helm.lint(str(CHART), values, strict=True)
        assert [message for message in report["messages"] if message["severity"] > 1] == []
        assert report["errors"] == []
