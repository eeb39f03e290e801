"""The alerts and the dashboard of `cluster/`: every query selects what a run really exports."""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import promql_parser
import pytest
from rich.console import Console

from tests.cluster.queries import dashboard, labels, queries, rules, selectors
from tests.fake_engine import FAKE_ENGINE
from tests.policies import AT_ONCE
from tests.waiting import PATIENCE, wait_until
from vidgen_dist.observability.metrics import METRICS
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.failures import StorageError

SAMPLES = {
    f"{metric.exported_name}{suffix}": {*metric.labels, *(["le"] if suffix == "_bucket" else [])}
    for metric in METRICS
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}
"""Series of a run -> their labels."""


@pytest.mark.parametrize("name", queries())
def test_a_query_selects_metrics_and_labels_of_runs(name: str) -> None:
    query = queries()[name]
    selected = list(selectors(query))
    assert selected
    known: set[str] = set()
    for metric, matched in selected:
        assert metric in SAMPLES, f"{name}: {metric} is no metric"
        assert matched <= SAMPLES[metric], f"{name}: {metric} has no such label"
        known |= SAMPLES[metric]
    assert labels(query) <= known, name


@pytest.mark.parametrize("query", ["sum by (model", "rate(ray_vidgen_videos_total)", "ray_vidgen_gangs[5x]"])
def test_wrong_queries_are_found(query: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        promql_parser.parse(query)


def test_counters_are_asked_for_their_increase_and_gauges_for_their_value() -> None:
    kinds = {
        sample: metric.kind for metric in METRICS for sample in SAMPLES if metric.exported_name in sample
    }
    for name, query in queries().items():
        for metric, _ in selectors(query):
            asked = re.search(rf"(rate|increase|changes)\({metric}\W", query)
            if kinds[metric] == "gauge":
                assert asked is None or asked[1] == "changes", name
            else:
                assert asked is not None, name


def test_alerts_are_whole() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        for text in rule["annotations"].values():
            asked = set(re.findall(r"\$labels\.(\w+)", text))
            assert asked <= labels(rule["expr"])
            for template in re.findall(r"\{\{(.*?)\}\}", text):
                assert re.fullmatch(
                    r" \$(labels\.\w+|value)( \| (humanize|humanizePercentage|humanizeDuration))? ", template
                )


def test_the_storage_alert_names_the_class_of_refused_requests() -> None:
    (rule,) = (rule for rule in rules() if rule["alert"] == "VidgenStorageRefuses")
    assert f'error="{StorageError.__name__}"' in rule["expr"]


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["model"]["datasource"] == source
    assert variables["model"]["query"]["query"] == "label_values(ray_vidgen_gangs, model)"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["datasource"] == source
        assert panel["title"]
        assert panel["description"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == source
            assert 'model=~"$model"' in target["expr"]
            # What a legend names, the query keeps.
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= labels(target["expr"].replace("$__rate_interval", "5m"))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.usefixtures("local_ray")
def test_a_run_exports_what_the_queries_select(
    make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str], tmp_path: Path
) -> None:
    """A run with a video, a row that fails, an attempt that is repeated, and a gang that is lost."""
    import ray

    wanted = {metric for query in queries().values() for metric, _ in selectors(query)}
    go, model = tmp_path / "go", f"org/{tmp_path.name}"
    prompts = [f"die-once:{tmp_path}/died", "raise:oops", f"starve:{tmp_path}/starved", f"wait:{go}"]
    spec = make_spec(make_manifest(*prompts), model__id=model, topology__replicas=1, topology__shard_size=1)
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    seen: dict[str, tuple[set[str], float]] = {}

    def all_there() -> bool:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        for name, found, value in re.findall(r"^(ray_vidgen_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            if f'model="{model}"' in found:
                seen[name] = set(re.findall(r'(\w+)="', found)), float(value)
        # Two videos are done, and a time is left for the one that waits.
        return wanted <= seen.keys() and seen["ray_vidgen_seconds_left"][1] > 0

    with ThreadPoolExecutor(1) as pool:
        policies = RunPolicies(retries=AT_ONCE)
        running = pool.submit(
            render, spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies
        )
        try:
            # Ray's agent gets new values every 10 s.
            wait_until(all_there, every=0.5)
        finally:
            go.touch()
        result = running.result(PATIENCE)
    assert (result.done, result.failed) == (3, 1)
    for name in wanted:
        assert SAMPLES[name] <= seen[name][0], name
