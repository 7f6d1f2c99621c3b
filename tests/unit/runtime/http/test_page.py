"""What is answered at `/` and below `/page`: by which client asks, with which headers."""

from __future__ import annotations

import re

import falcon.testing
import pytest

from rocmforge.runtime.http.page import GREETING, load_page
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture
def client() -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(FakeEngine()))


@pytest.mark.parametrize("accept", [CHROMIUM, "text/html", "text/html;q=0.5, text/plain;q=0.4"])
def test_a_browser_gets_the_page(client: falcon.testing.TestClient, accept: str) -> None:
    result = client.simulate_get("/", headers={"Accept": accept})
    assert result.status_code == 200
    assert result.headers["content-type"].startswith("text/html")
    assert result.text.startswith("<!doctype html>")
    assert "Accept" in result.headers["vary"]


@pytest.mark.parametrize(
    "accept",
    ["*/*", "application/json", "application/json, text/plain, */*", "text/*", "", "nonsense", "text/html;q=x"],
)
def test_programs_get_the_greeting_of_ollama(client: falcon.testing.TestClient, accept: str) -> None:
    result = client.simulate_get("/", headers={"Accept": accept})
    assert (result.status_code, result.text) == (200, GREETING)
    assert result.headers["content-type"].startswith("text/plain")
    assert "Accept" in result.headers["vary"]
    assert client.simulate_head("/", headers={"Accept": accept}).status_code == 200


def test_a_client_without_accept_gets_the_greeting(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/").text == "Ollama is running"


@pytest.mark.parametrize("path", ["/", "/docs", *(f"/page/{name}" for name in load_page())])
def test_headers_of_the_page(client: falcon.testing.TestClient, path: str) -> None:
    result = client.simulate_get(path, headers={"Accept": "text/html"})
    assert result.status_code == 200
    assert result.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in result.headers["content-security-policy"]
    assert result.headers["x-content-type-options"] == "nosniff"
    assert result.headers["cache-control"] == "no-cache"
    assert result.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs", "/page/app.js"])
def test_a_copy_that_the_client_has_is_not_sent_again(client: falcon.testing.TestClient, path: str) -> None:
    first = client.simulate_get(path, headers={"Accept": "text/html"})
    headers = {"Accept": "text/html", "If-None-Match": first.headers["etag"]}
    again = client.simulate_get(path, headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    headers["If-None-Match"] = "*"
    assert client.simulate_get(path, headers=headers).status_code == 304
    headers["If-None-Match"] = '"another"'
    assert client.simulate_get(path, headers=headers).content == first.content


@pytest.mark.parametrize(
    "name, media_type",
    [
        ("docs.html", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_each_file_is_of_its_type(client: falcon.testing.TestClient, name: str, media_type: str) -> None:
    result = client.simulate_get(f"/page/{name}")
    assert (result.status_code, result.headers["content-type"]) == (200, media_type)
    head = client.simulate_head(f"/page/{name}")
    assert (head.status_code, head.headers["content-type"], head.content) == (200, media_type, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2fpage.py", "%2e%2e", "page.py", ".", "app.js%00"])
def test_only_the_files_of_the_page_are_served(client: falcon.testing.TestClient, name: str) -> None:
    assert client.simulate_get(f"/page/{name}").status_code == 404


def test_a_slash_at_the_end_leads_to_the_docs(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/docs/")
    assert (result.status_code, result.headers["location"]) == (308, "../docs")


def test_all_files_of_the_page_are_used_and_none_is_elsewhere() -> None:
    page = load_page()
    everything = b"\n".join(file.data for file in page.values()).decode()
    for name in page.keys() - {"index.html", "docs.html"}:
        assert name in everything
    namespace = "http://www.w3.org/2000/svg"
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", everything.replace(namespace, "")) == []
    assert "innerHTML" not in everything
