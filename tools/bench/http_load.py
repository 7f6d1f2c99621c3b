"""A small asynchronous HTTP client for measuring: it says when each event came, and can leave as rudely as clients do.

One connection a request. It does little work on purpose: it shares the processor with the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

MAX_LINE_BYTES: Final = 4 << 20
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class HttpError(Exception):
    """An answer that is not 200, or none. `status` is 0 where the connection broke."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if status else message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event. `at`: seconds of `time.perf_counter` when its last byte was read."""

    at: float
    document: dict[str, Any]


class Exchange:
    """A request that was sent, and its answer as it comes. An async context manager, which closes the connection."""

    def __init__(self, address: Address, method: str, path: str, body: Mapping[str, object] | bytes | None) -> None:
        """Args: the request; a body that is no bytes is sent as JSON."""
        self._address = address
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._request = head.encode() + data
        self.sent_at = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Exchange:
        """Connect, send, and read status and headers.

        Raises:
            HttpError: there was no answer.
        """
        self.sent_at = time.perf_counter()
        try:
            self._reader, self._writer = await asyncio.open_connection(
                self._address.host, self._address.port, limit=MAX_LINE_BYTES
            )
        except OSError as error:
            raise HttpError(0, f"cannot connect: {error}") from None
        try:
            self._writer.write(self._request)
            await self._read_head()
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self, reset: bool = False) -> None:
        """Close the connection, wherever the answer is; `reset`: with RST, as a client that was killed may."""
        if reset:
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()

    async def _read_head(self) -> None:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            raise HttpError(0, f"no answer: {error!r}") from None
        self.status = int(head[0].split()[1])
        for line in head[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes, without the framing.

        Raises:
            HttpError: the connection broke before the end.
        """
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
            elif "content-length" in self.headers:
                yield await self._reader.readexactly(int(self.headers["content-length"]))
            else:
                while data := await self._reader.read(65536):
                    yield data
        except (OSError, asyncio.IncompleteReadError) as error:
            raise HttpError(0, f"the answer was cut short: {error!r}") from None

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self.parts()])

    async def events(self) -> AsyncIterator[Event]:
        """Server-sent events that hold JSON; comments and `[DONE]` are left out.

        Raises:
            HttpError: the answer is not 200, or broke.
        """
        if self.status != 200:
            raise HttpError(self.status, (await self.body()).decode("utf-8", "replace")[:200])
        rest = b""
        async for part in self.parts():
            at = time.perf_counter()
            *blocks, rest = (rest + part).split(b"\n\n")
            for block in blocks:
                for line in block.split(b"\n"):
                    if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                        yield Event(at, json.loads(line[5:]))


async def call(
    address: Address, method: str, path: str, body: Mapping[str, object] | bytes | None = None
) -> tuple[int, Any]:
    """Status of a request and its answer: JSON where it is, else text.

    Raises:
        HttpError: there was no answer.
    """
    async with Exchange(address, method, path, body) as exchange:
        data = await exchange.body()
    try:
        return exchange.status, json.loads(data)
    except ValueError:
        return exchange.status, data.decode("utf-8", "replace")
