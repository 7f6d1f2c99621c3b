"""The page at `/docs` in a real browser: every operation of the OpenAPI document, and by keys alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from rocmforge.tests.support.browser import COLOURS, Watched, chromium, luminance, watched
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving

expect.set_options(timeout=1000 * PATIENCE_SECONDS)
CHAT = "#post_v1_chat_completions"


@pytest.fixture(scope="module")
def small(small_bundle: Path) -> Iterator[Server]:
    with serving(small_bundle) as running:
        yield running


@pytest.fixture(scope="module")
def document(small: Server) -> dict[str, Any]:
    found: dict[str, Any] = small.get("/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def view(browser: Browser, small: Server) -> Iterator[Watched]:
    with watched(browser, small.url) as made:
        open_docs(made)
        yield made


@pytest.fixture
def page(view: Watched) -> Page:
    return view.page


def open_docs(view: Watched, fragment: str = "") -> None:
    view.page.goto(f"{view.url}/docs{fragment}")
    expect(view.page.get_by_role("status")).to_contain_text("operations")


def test_headers_allow_nothing_from_outside(small: Server) -> None:
    response = small.get("/docs")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_lists_every_operation(view: Watched, document: dict[str, Any]) -> None:
    expected = {
        f"{method.upper()}{path}{operation['summary']}"
        for path, entry in document["paths"].items()
        for method, operation in entry.items()
    }
    shown = view.page.locator("details.operation > summary").all_text_contents()
    assert len(shown) == len(expected)
    assert set(shown) == expected
    expect(view.page.get_by_role("status")).to_have_text(f"{len(expected)} operations")
    assert view.console_errors == []
    assert {"/docs", "/page/docs.js", "/page/docs.css", "/openapi.json"} <= set(view.paths())


def test_every_operation_opens(view: Watched, document: dict[str, Any]) -> None:
    """Schemas of all kinds are shown, and each field of each request."""
    view.page.evaluate("document.querySelectorAll('details.operation').forEach((each) => { each.open = true; })")
    for path, entry in document["paths"].items():
        for operation in entry.values():
            opened = view.page.locator(f"#{operation['operationId']}")
            expect(opened.get_by_role("heading", name="Answer")).to_be_visible()
            body = operation.get("requestBody", {"content": {"application/json": {"schema": {}}}})
            name = body["content"]["application/json"]["schema"].get("$ref", "").rpartition("/")[2]
            fields = document["components"]["schemas"].get(name, {}).get("properties", {})
            shown = set(opened.locator("td:first-child > code").all_text_contents())
            assert fields.keys() <= shown, path
    assert view.console_errors == []


def test_a_field_opens_its_own_schema(page: Page) -> None:
    operation = page.locator(CHAT)
    operation.locator("summary").first.click()
    row = operation.get_by_role("row").filter(has=page.locator("td:first-child > code", has_text="messages")).first
    expect(row).to_contain_text("array of ChatMessage")
    row.get_by_text("ChatMessage", exact=True).click()
    expect(row.locator("td:first-child > code", has_text="tool_call_id")).to_be_visible()


def test_the_filter_and_the_address(view: Watched, document: dict[str, Any]) -> None:
    page = view.page
    page.get_by_label("Filter by path or word").fill("post /V1/completions")
    expect(page.get_by_role("status")).to_have_text("1 operation")
    expect(page.locator("details.operation:visible")).to_have_count(1)
    expect(page.locator("section:visible")).to_have_count(1)
    page.get_by_label("Filter by path or word").fill("")
    expect(page.locator("details.operation:visible")).to_have_count(sum(map(len, document["paths"].values())))
    open_docs(view, CHAT)
    expect(page.locator(CHAT)).to_have_attribute("open", "")


def test_keys_alone_are_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the operations")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    first = page.locator("details.operation").first
    expect(first.locator("summary").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(first.get_by_role("heading", name="Answer")).to_be_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


@pytest.mark.parametrize("path", ["/docs", "/docs" + CHAT])
def test_fits_a_screen_of_320_pixels(browser: Browser, small: Server, path: str) -> None:
    with watched(browser, small.url, viewport={"width": 320, "height": 640}) as view:
        open_docs(view, path.removeprefix("/docs"))
        assert view.page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_server_that_wants_a_key(page: Page) -> None:
    error = '{"error": "expected an API key", "status": "error"}'
    page.route("**/openapi.json", lambda route: route.fulfill(status=401, body=error, content_type="application/json"))
    page.reload()
    expect(page.get_by_role("alert")).to_have_text("expected an API key")
    page.unroute("**/openapi.json")
    page.evaluate("sessionStorage.setItem('rocmforge.key', 'sk-test')")
    with page.expect_request("**/openapi.json") as asked:
        page.reload()
    assert asked.value.headers["authorization"] == "Bearer sk-test"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(browser: Browser, small: Server, scheme: str) -> None:
    with watched(browser, small.url, color_scheme=scheme) as view:
        open_docs(view, CHAT)
        found = view.page.evaluate(COLOURS)
    assert len(found) > 100
    for least, what, colour, back in found:
        darker, lighter = sorted([luminance(colour), luminance(back)])
        assert (lighter + 0.05) / (darker + 0.05) >= least, (what, colour, back)
