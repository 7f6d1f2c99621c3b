"""The table of routes: what is served is what the OpenAPI document says."""

from __future__ import annotations

import json
import re

import falcon.testing
import pytest

from rocmforge.runtime.http.app import ROUTES
from rocmforge.runtime.http.core.routes import Route
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

METHODS = ("get", "post", "delete")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_method_that_is_served_has_its_operation(route: Route) -> None:
    served = {method for method in METHODS if hasattr(route.resource, f"on_{method}")}
    assert {method for method in METHODS if getattr(route, method) is not None} == served
    assert served


def test_the_document_says_what_it_refers_to() -> None:
    """OpenAPI: each `$ref` of the document is there, and each schema is referred to."""
    document = falcon.testing.TestClient(make_app(FakeEngine())).simulate_get("/openapi.json").json
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert referred == set(document["components"]["schemas"])
    assert len(referred) > 50


def test_what_may_be_asked_of_one_model_says_so() -> None:
    """By a parameter of the query, as llama.cpp's clients do of a server of several."""
    named = {route.path for route in ROUTES if route.get and any(name == "model" for name, _ in route.get.query)}
    assert {"/props", "/tokenizer_info"} <= named


def test_no_path_is_served_twice() -> None:
    paths = [path for route in ROUTES for path in (route.path, *route.aliases)]
    assert len(set(paths)) == len(paths)
