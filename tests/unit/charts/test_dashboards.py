"""Dashboards: the JSON in the chart is what the builders make, and every panel can be read by a stranger."""

from __future__ import annotations

import json

import pytest
from rendered_chart import CHART, one, render

from rewarm_dashboards.__main__ import texts

FOLDER = CHART / "dashboards"
DASHBOARDS = {name: json.loads(text) for name, text in texts().items()}


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_charts_json_is_not_stale():
    assert {file.name for file in FOLDER.glob("*.json")} == set(texts())
    for name, text in texts().items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: make dashboards"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_portable(name):
    made = DASHBOARDS[name]
    assert made["uid"] == name.removesuffix(".json")
    assert made["title"].startswith("Rewarm / ")
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(variables) >= {"datasource", "namespace"}
    for panel in panels(made):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert "id" not in made or made["id"] is None


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_a_unit_and_says_what_it_shows(name):
    for panel in panels(DASHBOARDS[name]):
        assert len(panel["description"]) > 15, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        if len(panel["targets"]) > 1 and panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_stand_beside_each_other_and_not_on_each_other(name):
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    identities = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(identities) == len(set(identities))


def test_what_people_look_for_is_there():
    titles = {name: {panel["title"] for panel in panels(made)} for name, made in DASHBOARDS.items()}
    assert titles["rewarm-run.json"] >= {
        "Loss per set", "Forgetting and gain", "Stability gap", "Learning rate", "Replay share", "Tokens per second",
        "Checkpoint age", "Attempts", "Training loss by source", "Gradient norm",
    }  # fmt: skip
    assert titles["rewarm-fleet.json"] >= {
        "Runs by condition", "Queue depth", "Goodput", "GPU hours, useful and lost", "Reconcile latency", "API errors",
        "Leader",
    }  # fmt: skip
    gap = [panel for panel in panels(DASHBOARDS["rewarm-run.json"]) if panel["title"] == "Stability gap"]
    assert any("good runs look bad early" in panel["description"].lower() for panel in gap)


def test_dashboards_lead_to_each_other():
    links = {name: [link["url"] for link in made["links"]] for name, made in DASHBOARDS.items()}
    assert links == {"rewarm-run.json": ["/d/rewarm-fleet"], "rewarm-fleet.json": ["/d/rewarm-run"]}
    assert "/d/rewarm-run?var-namespace=" in json.dumps(DASHBOARDS["rewarm-fleet.json"]["panels"])


def test_the_chart_carries_them_as_they_are():
    made = one(render({"dashboards": {"enabled": True, "namespace": "grafana"}}), "ConfigMap")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["namespace"] == "grafana"
    assert {name: json.loads(text) for name, text in made["data"].items()} == DASHBOARDS
    assert len(json.dumps(made)) < 900_000
