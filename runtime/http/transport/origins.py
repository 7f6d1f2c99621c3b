"""Pages of the web and this server: by which names it may be asked, whose pages may ask, and what they may read.

A browser is a client inside the walls: a page from anywhere can have it ask a server on the loopback. It says whose
page it is in `Origin`, and in `Host` by which name it asks: by the page's own, where that has been made to lead here
(DNS rebinding), and then takes our answers for the page's own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import falcon

from ....artifacts.errors import UsageError, printable
from ..core.routes import Paths

BOUND_TO: Final = "rocmforge.bound_to"
"""In the WSGI environment: the address at which the server listens."""
ANY: Final = "*"

_HOST: Final = re.compile(r"(?:\[(?P<address>[^][]*)\]|(?P<name>[^][:/?#@\s]*))(?::\d*)?")
_EXPOSED: Final = ("Retry-After", "X-Request-Id")


@lru_cache(64)  # asked for each request
def is_loopback(host: str) -> bool:
    """Whether a name or address, without a port, is the loopback's and can be nothing else."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_name(header: str) -> str:
    """Name or address of a `Host` header, without port and brackets, in lower case; "" of what is none."""
    found = _HOST.fullmatch(header)
    return (found["address"] or found["name"] or "").removesuffix(".").lower() if found else ""


def read_hosts(names: Iterable[str]) -> tuple[str, ...]:
    """The names of `--allowed-host`.

    Raises:
        UsageError: one is none.
    """
    for name in names:
        if not host_name(name):
            raise UsageError(f"--allowed-host: expected a name, as llm.example, or *, found {printable(name, 100)}")
    return tuple(names)


class Hosts:
    """The names by which a server may be asked.

    At the loopback those of the loopback and the `allowed`. Elsewhere any, unless some are allowed: then these, the
    loopback's and addresses, for nobody's page can be at an address that is another's.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(map(host_name, allowed))

    def check(self, req: falcon.Request) -> None:
        """Refuse a request by another name. One without a name, of HTTP/1.0, is of no browser.

        Raises:
            HTTPForbidden: it is.
        """
        header = req.get_header("Host")
        local = is_loopback(req.env.get(BOUND_TO, ""))
        if header is None or ANY in self._allowed or not (local or self._allowed):
            return
        name = host_name(header)
        if name in self._allowed or is_loopback(name) or (not local and _is_address(name)):
            return
        raise falcon.HTTPForbidden(
            description=f"requests to {printable(name, 100)} are not answered here; --allowed-host allows another name"
        )


class Origins:
    """Whose pages may ask, and, as middleware, what they may read: its answers say so to browsers (CORS)."""

    def __init__(self, origins: Iterable[str], paths: Paths) -> None:
        """`origins` as `https://chat.example`; `*` is any, but for the private ones of `paths`."""
        self._paths = paths
        self._listed = frozenset(origins) - {ANY}
        self._open = ANY in origins
        self._private = falcon.CORSMiddleware[Any, Any](self._listed, expose_headers=_EXPOSED)
        self._public = falcon.CORSMiddleware[Any, Any](ANY, expose_headers=_EXPOSED) if self._open else self._private

    def check(self, req: falcon.Request) -> None:
        """Refuse a page of another origin: CORS only keeps it from reading, a simple POST would have its effect.

        Raises:
            HTTPForbidden: it may not ask for this.
        """
        origin = req.get_header("Origin")
        if origin is None or origin in self._listed or (self._open and not self._paths.is_private(req.path)):
            return
        if origin.partition("://")[2] != req.get_header("Host"):  # else it is our own page
            raise falcon.HTTPForbidden(description="requests of this origin are not allowed")

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Answer preflight requests, and name the origins that may read an answer."""
        cors = self._private if self._paths.is_private(req.path) else self._public
        cors.process_response(req, resp, resource, req_succeeded)
