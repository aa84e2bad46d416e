"""A thousand governance rules and a thousand routes: what lookups are measured with."""

from __future__ import annotations

from typing import Any


def rules(count: int = 1000) -> list[dict[str, Any]]:
    """Rules in Moesif's format with two conditions each, none of them met."""
    return [_rule(number) for number in range(count)]


def _rule(number: int) -> dict[str, Any]:
    conditions = [
        {"path": "request.route", "value": f"^/tenants/{number}/orders/[0-9]+$"},
        {"path": "request.headers.x-plan", "value": f"^plan-{number}$"},
    ]
    return {
        "_id": f"rule-{number}",
        "name": f"Rule {number}",
        "type": "regex",
        "block": True,
        "regex_config": [{"conditions": conditions}],
        "response": {"status": 429, "headers": {"X-Rule": str(number)}, "body": {"error": "over the quota"}},
    }


def routes(count: int) -> list[dict[str, Any]]:
    """Kong's routes: a path each, every second one with a host and every third with methods."""
    return [_route(number) for number in range(count)]


def _route(number: int) -> dict[str, Any]:
    route: dict[str, Any] = {"id": f"route-{number}", "created_at": number, "paths": [f"/api/v1/resource-{number}"]}
    if not number % 2:
        route["hosts"] = [f"tenant-{number % 50}.example.com"]
    if not number % 3:
        route["methods"] = ["GET", "POST"]
    return route
