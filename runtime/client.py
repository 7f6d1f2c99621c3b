"""A client of the native API, for `rfc generate`, `status`, `cancel` and `models --url`."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from ..artifacts.errors import RocmforgeError, UsageError, printable

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 600.0  # without a byte from the server
MAX_LINE_BYTES = 1 << 20


class Client:
    """Talks to one server."""

    def __init__(self, url: str, timeout: float = TIMEOUT_SECONDS) -> None:
        """Args: the server's base URL; seconds to wait for each answer. `ROCMFORGE_API_KEY` is shown to it.

        Raises:
            UsageError: it is no http URL.
        """
        if not _is_http(url):
            raise UsageError(f"--url: expected a URL as {DEFAULT_URL}, found {printable(url)}")
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._key = os.environ.get("ROCMFORGE_API_KEY", "").strip()

    def generate(self, body: Mapping[str, object]) -> dict[str, Any]:
        """The whole answer of `POST /generate`.

        Raises:
            RocmforgeError: the server is not there, or refuses, as all methods here.
        """
        return self._json("POST", "/generate", body)

    def generate_stream(self, body: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        """Events of `POST /generate/stream`, the last one with `finished` true."""
        with self._open("POST", "/generate/stream", body) as response:
            try:
                while line := response.readline(MAX_LINE_BYTES):
                    if line.startswith(b"data:"):
                        event = self._parse(line[5:])
                        yield event
                        if event.get("finished"):
                            return
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(error) from None
        raise RocmforgeError(f"{printable(self._url)}: the stream ended before the generation did")

    def status(self, request_id: int) -> dict[str, Any]:
        """How far a generation is."""
        return self._json("GET", f"/status/{request_id}")

    def cancel(self, request_id: int) -> dict[str, Any]:
        """End a generation; what it had come to."""
        return self._json("POST", f"/cancel/{request_id}", {})

    def models(self) -> list[dict[str, Any]]:
        """Models that the server has."""
        found = self._json("GET", "/models").get("models")
        if not isinstance(found, list):
            raise RocmforgeError(f"{printable(self._url)}/models: expected a list of models: not a rocmforge server?")
        return found

    def _json(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        with self._open(method, path, body) as response:
            try:
                return self._parse(response.read())
            except (OSError, http.client.HTTPException) as error:
                raise self._broken(error) from None

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RocmforgeError(f"{printable(self._url)}: expected JSON, found {printable(data[:60])}")
        return value

    def _open(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            return urllib.request.urlopen(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise RocmforgeError(f"{printable(self._url)}{path}: {_refusal(error)}") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> RocmforgeError:
        why = getattr(error, "reason", None) or error
        return RocmforgeError(f"{printable(self._url)}: {printable(why, 200)}; is `rfc serve` running there?")


def _is_http(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without end, or a port that is no number
        return False


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server says, in either shape of its errors, with the status."""
    try:
        said = json.loads(error.read(MAX_LINE_BYTES)).get("error")
    except (OSError, ValueError, AttributeError, RecursionError, http.client.HTTPException):
        said = None
    message = said.get("message") if isinstance(said, dict) else said
    return printable(f"{error.code}: {message or error.reason}", 500)
