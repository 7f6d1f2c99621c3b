"""Which requests are read, and what is said of the others, however their bytes arrive."""

from __future__ import annotations

import errno

import pytest
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]

from rocmforge.runtime.http.transport.connections import EXHAUSTED
from rocmforge.runtime.http.transport.parser import Parser

HOST = b"Host: a\r\n"


def parse(data: bytes, size: int, limit: int = 1000) -> Parser:
    """In pieces of `size` bytes, until the request is whole."""
    parser = Parser(Adjustments(max_request_header_size=limit))
    while data and not parser.completed:
        consumed = parser.received(data[:size])
        assert 0 < consumed <= size
        data = data[consumed:]
    return parser


READ = {
    "1.1": b"GET /completion?a=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "1.0 needs no host": b"GET /completion HTTP/1.0\r\n\r\n",
    "a name twice": b"GET /completion HTTP/1.1\r\n" + HOST + b"Accept: a\r\nAccept: b\r\n\r\n",
    "a body": b"POST /completion HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Type: a\r\n\r\n{}",
    "a chunked body": b"POST /completion HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("data", READ.values(), ids=READ.keys())
def test_read(data: bytes, size: int) -> None:
    parser = parse(data, size)
    assert (parser.error, parser.completed, parser.path) == (None, True, "/completion")


TWICE = ("Host", "Content-Length", "Transfer-Encoding", "Content-Type", "Authorization")
REFUSED = {
    **{f"more than one {name.lower()}": [(name, "1"), (name.upper(), "1")] for name in TWICE},
    "both transfer-encoding and content-length": [("Transfer-Encoding", "chunked"), ("Content-Length", "2")],
    "a folded header line": [("X", "a\r\n b")],
}


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("why", REFUSED)
def test_refused(why: str, size: int) -> None:
    lines = [f"{name}: {value}\r\n" for name, value in REFUSED[why]]
    host = "" if "host" in why else HOST.decode()
    parser = parse(f"POST /completion HTTP/1.1\r\n{host}{''.join(lines)}\r\n".encode(), size)
    assert (parser.error.code, parser.error.body, parser.path) == (400, why, "/completion")


@pytest.mark.parametrize(
    "data, why",
    [
        (b"GET /completion HTTP/1.1\r\n\r\n", "no host"),
        (b"GET /completion HTTP/1.1\r\n" + HOST + b"X: a\r\n\tb\r\n\r\n", "a folded header line"),
        (b"GET /completion HTTP/2.0\r\n" + HOST + b"\r\n", "expected HTTP/1.0 or HTTP/1.1"),
        (b"POST /completion HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding in HTTP/1.0"),
        (
            b"POST /completion HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
            "malformed request",
        ),
    ],
)
def test_what_is_said(data: bytes, why: str) -> None:
    parser = parse(data, len(data), limit=9000)
    assert (parser.error.code, parser.error.body, parser.path) == (400, why, "/completion")
    assert parser.completed
    assert parser.headers_finished


@pytest.mark.parametrize(
    "target", ["completion", "completion?a=/", "%6detrics", "http:completion", "localhost:80", "."]
)
def test_a_path_that_begins_with_no_slash(target: str) -> None:
    """It would find its route, though not the scope that the route needs."""
    parser = parse(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n", 1000)
    assert (parser.error.code, parser.error.body) == (400, "expected a path that begins with /")


@pytest.mark.parametrize(
    "target, path",
    [("*", "*"), ("http://a/completion", "/completion"), ("http://a", ""), ("//completion", "//completion")],
)
def test_other_forms_of_a_target(target: str, path: str) -> None:
    parser = parse(f"OPTIONS {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n", 1000)
    assert (parser.error, parser.path) == (None, path)


@pytest.mark.parametrize("size", [1, 40, 1000])
def test_of_a_header_that_is_too_large_the_path_is_known(size: int) -> None:
    """For the shape of the error."""
    data = b"GET /completion?a HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 500 + b"\r\n\r\n"
    parser = parse(data, size, limit=200)
    assert (parser.error.code, parser.path) == (431, "/completion")


def test_what_is_out_of_descriptors() -> None:
    """accept(2): too many open files of the process, of the system, or no memory for another."""
    assert {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM} == EXHAUSTED
