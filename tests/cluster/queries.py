"""The queries of `cluster/`: those of the dashboard's panels, and the rules' expressions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml

from tests.cluster.manifests import CLUSTER

BUILT_IN = {"$__rate_interval": "5m", "$model": ".*"}
"""Grafana's variables -> what stands for them."""


def dashboard() -> dict[str, Any]:
    return json.loads((CLUSTER / "grafana-dashboard.json").read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    whole = yaml.safe_load((CLUSTER / "prometheus-rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in whole["groups"] for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Panel or alert -> its query; a panel's may be several."""
    found = {rule["alert"]: rule["expr"] for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in BUILT_IN.items():
                text = text.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = text
    return found


def parts(expression: Any) -> Iterator[Any]:
    """A parsed query and all queries in it."""
    yield expression
    if isinstance(expression, promql.MatrixSelector):
        yield expression.vector_selector
    elif isinstance(expression, promql.Call):
        for argument in expression.args:
            yield from parts(argument)
    else:
        for name in ("expr", "lhs", "rhs", "param"):
            if (inner := getattr(expression, name, None)) is not None:
                yield from parts(inner)


def selectors(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a query selects, each with the labels that it matches."""
    for part in parts(promql.parse(query)):
        if isinstance(part, promql.VectorSelector):
            yield part.name, {matcher.name for matcher in part.matchers.matchers}


def labels(query: str) -> set[str]:
    """The labels that a query keeps."""
    kept: set[str] = set()
    for part in parts(promql.parse(query)):
        if isinstance(part, promql.AggregateExpr) and part.modifier is not None:
            kept |= set(part.modifier.labels)
    return kept
