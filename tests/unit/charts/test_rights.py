"""What the operator may do, as rendered: exactly operator.md's list, and nothing about secrets."""

from __future__ import annotations

import pytest
from rendered_chart import of_kind, one, render, rules

from rewarm_operator import selftest

READ = ("get", "list", "watch")
# operator.md, "Rights", as far as they are used (tests/integration/operator/test_rights_used.py): one line each.
LIST = {
    ("rewarm.dev", "continualruns"): (*READ, "create", "patch"),
    ("rewarm.dev", "mixturestudies"): READ,
    ("rewarm.dev", "mixturestudies/status"): ("patch",),
    ("rewarm.dev", "continualruns/status"): ("patch",),
    ("rewarm.dev", "continualruns/finalizers"): ("update",),
    ("batch", "jobs"): (*READ, "create", "delete"),
    ("", "services"): (*READ, "create"),
    ("", "configmaps"): (*READ, "create"),
    ("", "pods"): READ,
    ("", "events"): ("create", "patch"),
    ("kueue.x-k8s.io", "workloads"): READ,
}
WATCHED = {(group, resource, verb) for (group, resource), verbs in LIST.items() for verb in verbs}
LEASES = {("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")}
REVIEWS = {("authentication.k8s.io", "tokenreviews", "create")}


def test_a_namespace_gets_a_role_and_the_cluster_only_token_reviews():
    objects = render({"watch": {"namespaces": ["a", "b"]}}, name="alpha", namespace="ml")
    roles = {
        (item["metadata"]["namespace"], item["metadata"]["name"]): rules(item) for item in of_kind(objects, "Role")
    }
    assert roles == {
        ("a", "alpha-rewarm"): WATCHED,
        ("b", "alpha-rewarm"): WATCHED,
        ("ml", "alpha-rewarm-leader"): LEASES,
    }
    assert [rules(item) for item in of_kind(objects, "ClusterRole")] == [REVIEWS]


def test_cluster_wide_mode_gives_the_same_rights_everywhere():
    objects = render({"watch": {"clusterWide": True}}, name="alpha", namespace="ml")
    roles = {item["metadata"]["name"]: rules(item) for item in of_kind(objects, "ClusterRole")}
    assert roles == {"ml-alpha-rewarm": WATCHED, "ml-alpha-rewarm-tokenreviews": REVIEWS}
    assert rules(one(objects, "Role")) == LEASES


def test_without_progress_reporting_there_is_no_right_on_the_cluster():
    objects = render({"progress": {"enabled": False}})
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    assert not of_kind(objects, "Secret")


@pytest.mark.parametrize("watch", [{}, {"clusterWide": True}, {"namespaces": ["a", "b"]}])
def test_no_verb_on_secrets_no_wildcard_and_one_account(watch):
    objects = render({"watch": watch, "rbac": {"userRoles": True}}, namespace="ml")
    for role in of_kind(objects, "Role") + of_kind(objects, "ClusterRole"):
        for group, resource, verb in rules(role):
            assert resource.split("/")[0] != "secrets"
            assert "*" not in (group, resource, verb)
    bindings = of_kind(objects, "RoleBinding") + of_kind(objects, "ClusterRoleBinding")
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "rewarm", "namespace": "ml"}]
        kind, name, namespace = (
            *(binding["roleRef"][key] for key in ("kind", "name")),
            binding["metadata"].get("namespace"),
        )
        role = one([item for item in objects if item["metadata"].get("namespace") == namespace], kind, name)
        assert role["metadata"]["name"] == binding["metadata"]["name"]


def test_helm_test_asks_for_the_rendered_rights():
    assert selftest.WATCHED_RIGHTS == WATCHED
    assert selftest.LEADER_RIGHTS == LEASES
    assert selftest.CLUSTER_RIGHTS == REVIEWS


def test_users_roles_are_aggregated_only_when_asked_for():
    roles = [
        item
        for item in of_kind(render({"rbac": {"userRoles": True}}), "ClusterRole")
        if "tokenreviews" not in item["metadata"]["name"]
    ]
    labels = {key for item in roles for key in item["metadata"]["labels"] if "aggregate-to" in key}
    assert labels == {f"rbac.authorization.k8s.io/aggregate-to-{name}" for name in ("view", "edit", "admin")}
    assert {group for item in roles for group, _, _ in rules(item)} == {"rewarm.dev"}


def test_who_may_edit_may_change_runs_and_who_may_view_may_only_read_them():
    """Kubernetes adds what is aggregated to `view` to `edit`, and that to `admin`; nobody may write a status."""
    objects = of_kind(render({"rbac": {"userRoles": True}}), "ClusterRole")
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    view, edit, admin = (
        set().union(*(rules(item) for item in objects if prefix + name in item["metadata"]["labels"]))
        for name in ("view", "edit", "admin")
    )
    kinds = ("continualruns", "mixturestudies")
    parts = [part for kind in kinds for part in (kind, f"{kind}/status")]
    assert view == {("rewarm.dev", part, verb) for part in parts for verb in READ}
    verbs = ("create", "update", "patch", "delete", "deletecollection")
    assert edit == admin == {("rewarm.dev", kind, verb) for kind in kinds for verb in verbs}
