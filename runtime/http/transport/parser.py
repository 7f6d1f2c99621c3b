"""Requests as they are read from a connection, and what of them is refused before the application."""

from __future__ import annotations

from collections import Counter

from waitress.parser import HTTPRequestParser, ParsingError  # type: ignore[import-untyped]
from waitress.utilities import BadRequest, RequestHeaderFieldsTooLarge  # type: ignore[import-untyped]

ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization")


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads a request, and refuses what two servers in a row could read in two ways."""

    path = ""

    def received(self, data: bytes) -> int:
        """Take bytes; return how many belong to this request."""
        before = self.header_plus
        try:
            consumed = int(super().received(data))
        except ValueError:  # a Content-Length of too many digits, or half an IPv6 address
            self.error = BadRequest("malformed request")
            self.completed = self.headers_finished = True
            return len(data)
        if isinstance(self.error, RequestHeaderFieldsTooLarge):
            self.path = _path_of(before + data)  # for the shape of the error
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse request line and header.

        Raises:
            ParsingError: they are malformed, or ambiguous.
        """
        lines = header_plus.split(b"\r\n")
        self.path = _path_of(lines[0])
        names = Counter(line.partition(b":")[0].lower() for line in lines[1:])
        for name in ONCE:
            if names[name] > 1:
                raise ParsingError(f"more than one {name.decode()}")
        if names[b"transfer-encoding"] and names[b"content-length"]:
            raise ParsingError("both transfer-encoding and content-length")
        if any(line.startswith((b" ", b"\t")) for line in lines[1:]):
            raise ParsingError("a folded header line")
        super().parse_header(header_plus)
        if self.version not in {"1.0", "1.1"}:
            raise ParsingError("expected HTTP/1.0 or HTTP/1.1")
        if self.version == "1.1" and not names[b"host"]:
            raise ParsingError("no host")
        if self.version == "1.0" and names[b"transfer-encoding"]:
            raise ParsingError("transfer-encoding in HTTP/1.0")
        # Routes would be found without it, but none of those that need more than a key for use. "*" is of OPTIONS.
        if self.path not in {"", "*"} and not self.path.startswith("/"):
            raise ParsingError("expected a path that begins with /")


def _path_of(head: bytes) -> str:
    words = head[:200].split(b" ", 2)
    return words[1].decode("latin-1").partition("?")[0] if len(words) > 1 else ""
