"""Debian's Chromium without a screen, driven by Playwright, and a page in it that is watched."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from rocmforge.tests.support.process import PATIENCE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str:
    """Path of the browser. Without one the tests are skipped, in CI they fail: there it is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    missing = "no Chromium here: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextlib.contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A browser for a while, with further options of its command line."""
    path = find_chromium()
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as CI does; the only pages it sees are ours.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *options])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of the server at `url`, and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.console_errors: list[str] = []
        self.exceptions: list[str] = []
        self.outside: list[str] = []
        self.requests: list[Request] = []
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.exceptions.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.console_errors.append(message.text)

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.outside.append(request.url)

    def open(self) -> None:
        """Load the page and wait until it knows its models."""
        self.page.goto(self.url)
        self.page.locator("#model option").first.wait_for(state="attached")

    def paths(self) -> list[str]:
        """What has been asked for."""
        return [urlsplit(request.url).path for request in self.requests]


@contextlib.contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A page in a profile of its own; whatever a test does, it raises no exception and asks no other server."""
    context = browser.new_context(**options)
    try:
        made = Watched(context.new_page(), url)
        yield made
        assert made.exceptions == []
        assert made.outside == []
    finally:
        context.close()


# Every visible text with the colour of its letters and of what is behind it, and every input with its border.
COLOURS = """() => {
  const found = [];
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return null;
  };
  for (const e of document.body.querySelectorAll("*")) {
    if (e.disabled || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const own = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (own && e.tagName !== "NOSCRIPT") found.push([4.5, e.outerHTML.slice(0, 60), style.color, behind(e)]);
    if (e.matches("input, textarea, select")) {
      found.push([3, e.id, style.borderTopColor, behind(e.parentElement)]);
      if (e.placeholder) found.push([4.5, e.id, getComputedStyle(e, "::placeholder").color, behind(e)]);
    }
  }
  return found;
}"""


def luminance(colour: str) -> float:
    """Relative luminance of an opaque colour. Source: WCAG 2.2."""
    match = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert match, colour
    channels = [int(value) / 255 for value in match.groups()]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
