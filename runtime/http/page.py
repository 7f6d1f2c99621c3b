"""The pages at `/` and `/docs`: plain files of the folder `page`, no build step, nothing from elsewhere."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

import falcon
from falcon import mediatypes

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import printable
from .core.errors import NotFoundError

INDEX = "index.html"
DOCS = "docs.html"
# What Ollama's clients look for at `/`.
GREETING = "Ollama is running"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, with its media type and the entity tag of its bytes."""

    data: bytes
    media_type: str
    etag: str


def load_page() -> dict[str, PageFile]:
    """Return the files of the page by name."""
    found = {}
    for entry in files(__package__).joinpath("page").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            data = entry.read_bytes()
            found[entry.name] = PageFile(data, MEDIA_TYPES[suffix], hashlib.sha256(data).hexdigest()[:32])
    return found


def add_page(app: falcon.App[Any, Any]) -> None:
    """Route `/`, `/docs`, and the files that these pages need."""
    page = load_page()
    app.add_route("/", Home(page[INDEX]))
    app.add_route("/docs", Docs(page[DOCS]))
    app.add_route("/page/{name}", PageAsset(page))


def _send(req: falcon.Request, resp: falcon.Response, file: PageFile) -> None:
    """Answer with a file, or with 304 where the client has it. `no-cache`: kept, but asked for again each time."""
    resp.set_headers(SECURITY_HEADERS)
    resp.set_header("Cache-Control", "no-cache")
    resp.etag = file.etag
    known = req.if_none_match or []
    if "*" in known or file.etag in known:
        resp.status = falcon.HTTP_304
        return
    resp.content_type = file.media_type
    resp.data = file.data


def wants_page(accept: str) -> bool:
    """Whether a client prefers HTML to plain text, as browsers do and programs (`*/*`) do not."""
    try:
        return mediatypes.quality("text/html", accept) > mediatypes.quality("text/plain", accept)
    except ValueError:
        return False


class Home:
    """`GET /`: the page for a browser, the line that Ollama's clients expect for all others."""

    def __init__(self, index: PageFile) -> None:
        self._index = index

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer by what the client accepts."""
        resp.append_header("Vary", "Accept")
        if wants_page(req.accept):
            _send(req, resp, self._index)
        else:
            resp.content_type = falcon.MEDIA_TEXT
            resp.text = GREETING

    on_head = on_get  # Falcon drops the body


class Docs:
    """`GET /docs`: a page that shows what `/openapi.json` says."""

    def __init__(self, page: PageFile) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the page; `/docs/` leads here, as the page's own addresses are relative."""
        if str(req.env["PATH_INFO"]).endswith("/"):
            raise falcon.HTTPPermanentRedirect("../docs")
        _send(req, resp, self._page)

    on_head = on_get


class PageAsset:
    """`GET /page/{name}`."""

    def __init__(self, page: dict[str, PageFile]) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with the file."""
        if name not in self._page:
            raise NotFoundError(f"no such path: /page/{printable(name, 60)}")
        _send(req, resp, self._page[name])

    on_head = on_get
