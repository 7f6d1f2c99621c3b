"""Other servers whose models are offered beside ours: an Ollama, or anything that speaks OpenAI's API."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, Final
from urllib.parse import urlsplit

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import UsageError, printable
from ..core.errors import UnreachableError

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 2.0  # for lists and health: who is slower than that is not available
IDLE_SECONDS: Final = 600.0  # for an answer's next byte
MAX_LIST_BYTES: Final = 4 << 20
KEEP_SECONDS: Final = 10.0  # a list of models is asked for again after that
MAX_ANSWER_BYTES: Final = 64 << 20  # of an answer in one piece; 2,048 vectors take half of that
CHUNK_BYTES: Final = 64 << 10
OLLAMA_URL: Final = "http://localhost:11434"


JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
LINES: Final = "application/x-ndjson"
_SECONDS: Final = re.compile(r"\d{1,6}")


class IntegrationError(UnreachableError):
    """What is said of an integration that cannot be reached, or answers nonsense."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a server is."""

    available: bool
    version: str | None
    error: str | None = None


@dataclass(slots=True)
class Forwarded:
    """An answer on its way through: JSON, which is here, or a stream. `close` it.

    Attributes:
        status: 200 to 299, or 400 to 599 with JSON.
        media_type: `JSON`, `EVENTS` or `LINES`.
        body: the whole of it, where it is JSON.
        retry_after: seconds, as it said, or None.
    """

    status: int
    media_type: str
    body: bytes | None
    retry_after: str | None
    _response: http.client.HTTPResponse
    _connection: http.client.HTTPConnection

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, as they come.

        Raises:
            IntegrationError: it broke off.
        """
        try:
            while chunk := self._response.read1(CHUNK_BYTES):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise IntegrationError(f"the server behind broke off: {_reason(error)}") from None

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._connection.close()


class Watch:
    """Hangs up on a server once nobody waits for its answer any more, for which a thread waits up to `IDLE_SECONDS`."""

    def __init__(self, gone: Callable[[], bool], poll_seconds: float) -> None:
        """Look every `poll_seconds` whether whoever waits has `gone`."""
        self._gone = gone
        self._poll_seconds = poll_seconds
        self._ended = threading.Event()

    def begin(self, sock: socket.socket) -> None:
        """Watch from now on, from a thread of its own."""
        threading.Thread(target=self._run, args=(sock,), name="integration watch", daemon=True).start()

    def end(self) -> None:
        """The answer is there, or will not come."""
        self._ended.set()

    def _run(self, sock: socket.socket) -> None:
        while not self._ended.wait(self._poll_seconds):
            if self._gone():
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which is the reader's alone
                return


class BaseIntegration(ABC):
    """A server that offers models. Redirects are not followed; only the URL that the operator gave is asked.

    Args:
        url: where it is, as `http://localhost:11434`.
        timeout: seconds for lists and health.
        api_key: that it demands, or None.

    Raises:
        UsageError: the URL is none.
    """

    def __init__(self, url: str, timeout: float = ASK_SECONDS, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--integration: expected an http or https URL, found {printable(url)}")
        self.url = url.rstrip("/")
        self._parts = parts
        self._timeout = timeout
        self._api_key = api_key

    @property
    @abstractmethod
    def prefix(self) -> str:
        """What begins the paths of our API that it answers, and is left out of its own: "/v1", or ""."""

    @abstractmethod
    def get_models(self) -> list[dict[str, Any]]:
        """Its models, as /v1 lists them.

        Raises:
            IntegrationError: it cannot be reached, or answers nonsense.
        """

    @abstractmethod
    def get_version(self) -> str | None:
        """Its version, where it tells it.

        Raises:
            IntegrationError: it cannot be reached, or answers nonsense.
        """

    def names_of(self, model: str) -> tuple[str, ...]:
        """The ids under which a model may stand in its list that a client asks for so."""
        return (model,)

    def is_available(self) -> bool:
        """Whether it answers now."""
        return self.health_check().available

    def health_check(self) -> Health:
        """How it is now."""
        try:
            return Health(True, self.get_version())
        except IntegrationError as error:
            return Health(False, None, str(error))

    def forward(self, path: str, body: bytes, watch: Watch | None = None) -> Forwarded:
        """POST a JSON body to one of its paths; `watch` begins once the server has been reached.

        Raises:
            IntegrationError: it cannot be reached, or answers with anything but JSON or events or, at a path of
                Ollama's, lines of JSON.
        """
        connection, response = self._send("POST", path, body, IDLE_SECONDS, watch)
        try:
            status, kind = response.status, _kind_of(response, path.startswith("/api/"))
            whole = _whole_json(response) if kind == JSON else None
        except (OSError, http.client.HTTPException, IntegrationError) as error:
            connection.close()
            raise IntegrationError(f"{self.url}{path}: {_reason(error)}") from None
        seconds = response.getheader("Retry-After", "")
        return Forwarded(status, kind, whole, seconds if _SECONDS.fullmatch(seconds) else None, response, connection)

    def _ask(self, path: str) -> dict[str, Any]:
        connection, response = self._send("GET", path, None, self._timeout)
        try:
            raw = response.read(MAX_LIST_BYTES + 1)
            if response.status != 200 or len(raw) > MAX_LIST_BYTES:
                raise IntegrationError(
                    f"{self.url}{path}: expected a short answer with status 200, found {response.status}"
                )
            document = json.loads(raw)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise IntegrationError(f"{self.url}{path}: {_reason(error)}") from None
        finally:
            connection.close()
        if not isinstance(document, dict):
            raise IntegrationError(f"{self.url}{path}: expected a JSON object")
        return document

    def _send(
        self, method: str, path: str, body: bytes | None, timeout: float, watch: Watch | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "rocmforge"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            connection = kind(str(self._parts.hostname), self._parts.port, timeout=timeout)
            try:
                connection.connect()
                if watch is not None:
                    watch.begin(connection.sock)
                connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
                return connection, connection.getresponse()
            except BaseException:
                connection.close()
                raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise IntegrationError(f"{self.url}: {_reason(error)}") from None


def _kind_of(response: http.client.HTTPResponse, lines: bool) -> str:
    """Media type of an answer, of those that are passed on; `lines`: of JSON, too."""
    status, kind = response.status, response.headers.get_content_type() if response.getheader("Content-Type") else ""
    if 300 <= status < 400:
        raise IntegrationError(f"a redirect (status {status}), which is not followed")
    if not (200 <= status < 300 or 400 <= status < 600):
        raise IntegrationError(f"expected a status from 200 to 599, found {status}")
    encoding = response.getheader("Content-Encoding", "identity")
    if encoding != "identity":
        raise IntegrationError(f"expected no Content-Encoding, found {printable(encoding, 40)}")
    expected = (JSON, EVENTS, LINES) if lines else (JSON, EVENTS)
    if kind not in (expected if status < 300 else (JSON,)):
        found = printable(kind, 60) or "no content type"
        raise IntegrationError(f"expected {' or '.join(expected)}, found {found} (status {status})")
    return kind


def _whole_json(response: http.client.HTTPResponse) -> bytes:
    raw = response.read(MAX_ANSWER_BYTES + 1)
    if len(raw) > MAX_ANSWER_BYTES:
        raise IntegrationError(f"expected at most {MAX_ANSWER_BYTES} bytes in one piece")
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        raise IntegrationError(
            f"expected JSON, as its content type says, found something else (status {response.status})"
        ) from None
    return raw


class OllamaIntegration(BaseIntegration):
    """An Ollama; by default the one of $OLLAMA_HOST, or of this machine."""

    prefix = ""

    def __init__(self, host: str | None = None, timeout: float = ASK_SECONDS, api_key: str | None = None) -> None:
        host = host or os.environ.get("OLLAMA_HOST") or OLLAMA_URL
        super().__init__(host if "://" in host else f"http://{host}", timeout, api_key)

    def get_models(self) -> list[dict[str, Any]]:
        """See `BaseIntegration`. Source: Ollama's API, `GET /api/tags`."""
        return [_ollama_model(entry) for entry in _entries(self._ask("/api/tags"), "models", "name")]

    def names_of(self, model: str) -> tuple[str, ...]:
        """See `BaseIntegration`; without a tag, as its clients mostly ask, `latest` is meant."""
        return (model,) if ":" in model.rpartition("/")[2] else (model, f"{model}:latest")

    def get_version(self) -> str | None:
        """See `BaseIntegration`."""
        version = self._ask("/api/version").get("version")
        return printable(version, 40) if isinstance(version, str) else None


class OpenAIIntegration(BaseIntegration):
    """A server that speaks OpenAI's API, by a URL that ends with /v1."""

    prefix = "/v1"

    def get_models(self) -> list[dict[str, Any]]:
        """See `BaseIntegration`."""
        return [
            {"object": "model", "created": 0, "owned_by": "unknown", **entry}
            for entry in _entries(self._ask("/models"), "data", "id")
        ]

    def get_version(self) -> str | None:
        """See `BaseIntegration`; the API has no version, but a list of models shows that it is there."""
        self._ask("/models")
        return None


def _entries(document: Mapping[str, Any], name: str, key: str) -> list[dict[str, Any]]:
    entries = document.get(name)
    if not isinstance(entries, list):
        raise IntegrationError(f"expected a list {name}")
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get(key), str)]


def _ollama_model(entry: Mapping[str, Any]) -> dict[str, Any]:
    given, size = entry.get("details"), entry.get("size")
    details = given if isinstance(given, dict) else {}
    return {
        "id": entry["name"],
        "object": "model",
        "created": 0,
        "owned_by": "ollama",
        "supports_agent": True,
        "supports_tools": True,
        "capabilities": {"completion": True, "tools": True},
        "details": {
            "size": f"{size / 1e9:.1f}GB" if isinstance(size, int) else "unknown",
            "family": details.get("family") or "unknown",
            "parameter_size": details.get("parameter_size") or "unknown",
        },
    }


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return printable(str(error) or type(error).__name__, 200)


@dataclass(slots=True)
class _Listed:
    models: list[dict[str, Any]] = field(default_factory=list)
    at: float = float("-inf")


class IntegrationManager:
    """Servers by name. Thread-safe. One that is not available offers no models, and is asked again later."""

    def __init__(self) -> None:
        """None at first."""
        self._integrations: dict[str, BaseIntegration] = {}
        self._lists: dict[str, _Listed] = {}
        self._lock = threading.Lock()

    def add_integration(self, name: str, integration: BaseIntegration) -> None:
        """Offer the models of one more.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._integrations:
            raise UsageError(f"--integration: there are two of the name {printable(name)}")
        self._integrations[name] = integration
        self._lists[name] = _Listed()

    def names(self) -> list[str]:
        """All of them."""
        return list(self._integrations)

    def health_check(self) -> dict[str, Health]:
        """How each of them is now."""
        return {name: integration.health_check() for name, integration in self._integrations.items()}

    def get_models_from(self, name: str) -> list[dict[str, Any]]:
        """The models of one; none while it is not available."""
        listed = self._lists[name]
        with self._lock:
            if time.monotonic() - listed.at < KEEP_SECONDS:
                return listed.models
        try:
            models = self._integrations[name].get_models()
        except IntegrationError as error:
            log.warning("integration %s: %s", printable(name), error)
            models = []
        with self._lock:
            listed.models, listed.at = models, time.monotonic()
        return models

    def get_all_models(self) -> list[dict[str, Any]]:
        """The models of all."""
        return [model for name in self._integrations for model in self.get_models_from(name)]

    def find(self, model: str) -> BaseIntegration | None:
        """Who offers a model, or None."""
        for name, integration in self._integrations.items():
            if any(entry["id"] in integration.names_of(model) for entry in self.get_models_from(name)):
                return integration
        return None


def parse_integration(text: str) -> tuple[str, BaseIntegration]:
    """`ollama`, `NAME=URL` of an Ollama, or `NAME=URL/v1` of a server of OpenAI's API.

    A key that it demands is in $ROCMFORGE_INTEGRATION_KEY_NAME.

    Raises:
        UsageError: it is none of these.
    """
    name, equals, url = text.partition("=")
    if not name.isidentifier() or (equals and not url) or (not equals and name != "ollama"):
        raise UsageError(f"--integration: expected ollama, or NAME=URL, found {printable(text)}")
    key = os.environ.get(f"ROCMFORGE_INTEGRATION_KEY_{name.upper()}")
    if url.rstrip("/").endswith("/v1"):
        return name, OpenAIIntegration(url, api_key=key)
    return name, OllamaIntegration(url or None, api_key=key)
