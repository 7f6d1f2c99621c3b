"""Who may ask for what: API keys with scopes, limits by client, pages of other origins. All off by default."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

import falcon

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import UsageError, printable
from ..core.access import Scope, demand
from ..core.routes import Paths
from .origins import Hosts, Origins
from .rate_limit import RateLimiter, client_of_address

log = logging.getLogger(__name__)

MAX_KEY_FILE_BYTES = 1 << 20
_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key: its SHA-256 (the key itself is not kept), what it is good for, and the name it goes by."""

    digest: bytes
    scopes: frozenset[Scope]
    name: str


class KeyRing:
    """The keys of a server."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, in a time that does not tell how much of it was right."""
        digest = _digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def load_keys(file: Path | None, single: str | None) -> KeyRing | None:
    """Read the keys of `--api-keys` and `ROCMFORGE_API_KEY`; None where neither is given.

    A line of the file is `KEY [SCOPES [NAME]]`: KEY in plain or as `sha256:` and 64 hex digits, SCOPES separated by
    commas (`use` where absent). `#` begins a line of comment. The single key is good for everything. Of a file that
    everybody on the machine can read or write, the log warns.

    Raises:
        UsageError: the file cannot be read, or a line is wrong. The message never shows a key.
    """
    keys = [] if file is None else _read_key_file(file)
    mode = 0 if file is None else file.stat().st_mode
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning(
            "--api-keys: %s: other users can read or write it (mode %03o): chmod 600", printable(file), mode & 0o777
        )
    if single:
        keys.append(ApiKey(_digest(single.strip()), frozenset(Scope), "environment"))
    return KeyRing(keys) if keys else None


def _read_key_file(path: Path) -> list[ApiKey]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise UsageError(f"--api-keys: {printable(path)}: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--api-keys: {printable(path)}: expected text, found bytes that are no UTF-8") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise UsageError(f"--api-keys: {printable(path)}: expected at most {MAX_KEY_FILE_BYTES} bytes")
    lines = ((number, line.split()) for number, line in enumerate(text.splitlines(), 1))
    keys = [
        _read_key(words, f"--api-keys: {printable(path)}: line {number}")
        for number, words in lines
        if words and not words[0].startswith("#")
    ]
    if not keys:
        raise UsageError(f"--api-keys: {printable(path)}: expected at least one key, found none")
    return keys


def _read_key(words: list[str], where: str) -> ApiKey:
    if len(words) > 3:
        raise UsageError(f"{where}: expected KEY SCOPES NAME, found {len(words)} words")
    hashed = _HASHED.fullmatch(words[0])
    if words[0].startswith("sha256:") and hashed is None:
        raise UsageError(f"{where}: expected 64 hex digits after sha256:")
    digest = bytes.fromhex(hashed[1]) if hashed else _digest(words[0])
    scopes = words[1].split(",") if len(words) > 1 else [Scope.USE]
    unknown = [scope for scope in scopes if scope not in set(Scope)]
    if unknown:
        raise UsageError(f"{where}: expected scopes of {', '.join(Scope)}, found {printable(unknown[0], 40)}")
    return ApiKey(digest, frozenset(map(Scope, scopes)), words[2] if len(words) > 2 else f"key-{digest.hex()[:8]}")


@dataclass(frozen=True, slots=True)
class Security:
    """Who may use a server.

    Attributes:
        keys: the keys of which one is demanded; None: everybody may.
        rate_per_minute: requests of one client a minute; None: no limit.
        cors_origins: whose pages may use it; `*`: everybody's. See `origins.Origins`.
        allowed_hosts: names by which it may be asked, beside those of the loopback; `*`: any. See `origins.Hosts`.
        trusted_proxy: address of a proxy whose `X-Forwarded-For` is believed.
        shared_prefix_cache: whether keys may see, by its speed and by the count of cached tokens, that another has
            sent a prompt that begins as theirs does.
    """

    keys: KeyRing | None = None
    rate_per_minute: int | None = None
    cors_origins: tuple[str, ...] = ("*",)
    trusted_proxy: str | None = None
    shared_prefix_cache: bool = False
    allowed_hosts: tuple[str, ...] = ()


def warn_if_open(security: Security, host: str) -> None:
    """Say so where everybody who reaches `host`, the bound address, may use the server."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if security.keys is None and not local:
        log.warning("whoever reaches %s may use this server: no API keys are set (see --api-keys)", printable(host))


class Gate:
    """Middleware: refuses who may not ask, and notes in `req.context.client` who does."""

    def __init__(self, security: Security, origins: Origins, paths: Paths) -> None:
        self._paths = paths
        self._keys = security.keys
        self._shared_cache = security.shared_prefix_cache
        self._limiter = RateLimiter(security.rate_per_minute) if security.rate_per_minute else None
        self._hosts = Hosts(security.allowed_hosts)
        self._origins = origins

    def process_request(self, req: falcon.Request, _: falcon.Response) -> None:
        """Check the name by which we are asked, whose page asks, key and rate.

        Raises:
            HTTPError: 401, 403 or 429.
        """
        req.context.client = client_of_address(req.remote_addr)
        req.context.scopes = frozenset(Scope) if self._keys is None else frozenset()
        req.context.sees_all = False
        req.context.cache_space = ""
        self._hosts.check(req)
        if req.path in self._paths.open or _is_preflight(req):
            return
        self._origins.check(req)
        scope = self._paths.needed_scope(req)
        key = self._authenticate(req)
        if key is not None:
            req.context.client = key.name
            req.context.scopes = key.scopes
            req.context.sees_all = Scope.ADMIN in key.scopes
            req.context.cache_space = "" if self._shared_cache else key.name
        if scope is Scope.USE:  # a scrape is no load, and must not be lost
            self._count(req.context.client)
        demand(req, scope)

    def _authenticate(self, req: falcon.Request) -> ApiKey | None:
        if self._keys is None:
            return None
        presented = _presented(req)
        key = None if presented is None else self._keys.find(presented)
        if key is None:
            self._count(req.context.client)  # who guesses keys is limited by address
            problem = "no API key was given" if presented is None else "the API key is not valid"
            raise falcon.HTTPUnauthorized(
                description=f"{problem}; expected `Authorization: Bearer KEY`, or `x-api-key: KEY`",
                challenges=['Bearer realm="rocmforge"', 'Basic realm="rocmforge", charset="UTF-8"'],
            )
        return key

    def _count(self, client: str) -> None:
        wait = self._limiter.take(client) if self._limiter is not None else 0
        if wait:
            raise falcon.HTTPTooManyRequests(description=f"too many requests; try again in {wait} s", retry_after=wait)


def _is_preflight(req: falcon.Request) -> bool:
    asks = req.get_header("Access-Control-Request-Method")
    return req.method == "OPTIONS" and asks is not None and req.get_header("Origin") is not None


def _presented(req: falcon.Request) -> str | None:
    """The key in a request's header: of a bearer, of Anthropic's clients, or a browser's password."""
    scheme, _, value = (req.get_header("Authorization") or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return _as_sent(value.strip())
    if scheme.lower() == "basic":
        return _password(req, value.strip())
    key = req.get_header("x-api-key")
    return None if key is None else _as_sent(key)


def _as_sent(value: str) -> str:
    """A header's text: WSGI hands its bytes over as Latin-1."""
    return value.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _password(req: falcon.Request, value: str) -> str | None:
    # A browser adds a password to the requests of any page; only our own pages may use it.
    if req.get_header("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        return None
    try:
        pair = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    return pair.partition(b":")[2].decode("utf-8", "surrogateescape")
