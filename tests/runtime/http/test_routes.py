"""The table of routes: what is served is what the OpenAPI document says."""

from __future__ import annotations

import pytest

from rocmforge.runtime.http.app import ROUTES
from rocmforge.runtime.http.openapi import Route

METHODS = ("get", "post", "delete")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_method_that_is_served_has_its_operation(route: Route) -> None:
    served = {method for method in METHODS if hasattr(route.resource, f"on_{method}")}
    assert {method for method in METHODS if getattr(route, method) is not None} == served
    assert served


def test_no_path_is_served_twice() -> None:
    paths = [path for route in ROUTES for path in (route.path, *route.aliases)]
    assert len(set(paths)) == len(paths)
