"""Debian's Chromium without a screen, driven by Playwright, and a page in it that is watched."""

from __future__ import annotations

import contextlib
import os
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
