"""Requests to one repository of a registry, by `oras`: addresses, credentials and tokens are its matter.

What it does not do is done here: uploads and downloads that go on where they were cut off (`transfer.py`), limits of
time and of what is read, credentials of HTTP Basic, and the files of credentials (`credentials.py`). Its own
`do_request` waits for a minute where a registry says that something is broken.

The registry alone gets its credentials: other places that it sends us to, by a redirect or as the address of an upload,
get none, and what they ask for is not answered.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from ..artifacts.errors import RocmforgeError, printable
from .credentials import load_credentials
from .errors import RegistryError
from .reference import Reference

MISSING: Final = "registries need the extra `oci`: pip install 'rocmforge[oci]'"
MAX_MANIFEST_BYTES: Final = 4 << 20
_SECONDS: Final = (15.0, 60.0)  # to connect, and between two pieces of an answer
_MAX_ANSWER_BYTES: Final = 1 << 20  # of one that is no blob and no manifest
_MAX_WAIT_SECONDS: Final = 30.0  # before a request is made again, whatever a registry says
_PORTS: Final = {"http": 80, "https": 443}
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class Client:
    """One repository. Requests are made one after another.

    Args:
        reference: names it.
        plain_http: no TLS; None: where it is this machine.

    Raises:
        RocmforgeError: the extra is not installed.
        RegistryError: the registry cannot be reached.
        InputError: a file of credentials is damaged.
    """

    def __init__(self, reference: Reference, plain_http: bool | None = None) -> None:
        try:
            import oras.container  # noqa: PLC0415 - only with the extra
            import oras.logger  # noqa: PLC0415
            import oras.provider  # noqa: PLC0415
            import requests  # noqa: PLC0415
        except ImportError as error:
            raise RocmforgeError(f"{MISSING} ({printable(error)})") from error
        oras.logger.setup_logger(quiet=True)
        host = reference.host
        if plain_http is None:
            plain_http = host.rpartition(":")[0] in _LOOPBACK or host in _LOOPBACK
        self.reference = reference
        self.network_errors: type[Exception] = requests.RequestException
        self._remote = oras.provider.Registry(hostname=host, insecure=plain_http)
        self._session = self._remote.session
        self._session.auth = _unchanged  # else ~/.netrc takes the place of what is sent
        _set_limits(self._session)
        self._base = f"{self._remote.prefix}://{host}/v2/"
        container = oras.container.Container(f"{host}/{reference.repository}", registry=host)
        self._remote.auth._auth_config = load_credentials()
        self._basic: dict[str, str] = {}
        try:
            self._remote.auth.load_configs(container)
        except (ValueError, KeyError, TypeError) as error:  # what a helper has said
            raise RegistryError(f"{host}: expected credentials of a helper, found {printable(error)}") from error
        self._greet()

    def url(self, path: str) -> str:
        """The address of something in the repository, as `blobs/sha256:…`."""
        return f"{self._base}{self.reference.repository}/{path}"

    def location(self, what: str, answer: Any) -> str:
        """The address where an upload goes on, which an answer gives, and which may be relative.

        Raises:
            RegistryError: it gives none.
        """
        given = answer.headers.get("Location", "")
        try:
            place = urllib.parse.urljoin(self._base, given) if given else ""
            if _origin(place)[0] in _PORTS:
                return place
        except ValueError:
            pass
        found = printable(given) if given else "none"
        raise RegistryError(f"{self.reference}: {what}: expected a Location of the registry, found {found}")

    def is_own(self, url: str) -> bool:
        """Whether an address is the registry's: its scheme, host and port."""
        try:
            return _origin(url) == _origin(self._base)
        except ValueError:
            return False

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        data: bytes | memoryview | None = None,
        stream: bool = False,
    ) -> Any:
        """Ask, with credentials where they are demanded; the answer of `requests`, whatever its status.

        Raises:
            RegistryError: the credentials are missing or wrong.
            network_errors: the connection failed.
        """
        auth, given, is_own = self._remote.auth, {"data": data, "stream": stream}, self.is_own(url)
        credentials = {**self._basic, **auth.get_auth_header()} if is_own else {}
        answer = self._session.request(method, url, headers={**(headers or {}), **credentials}, **given)
        challenge = str(answer.headers.get("Www-Authenticate", "")).lower()
        if answer.status_code not in (401, 403) or not (challenge.startswith("bearer") and "realm=" in challenge):
            return answer
        if not (is_own and self.is_own(answer.url)):  # whoever we were sent on to wants a password
            raise self._unauthorized()
        # No token yet, or one for something else, or one that has expired.
        try:
            self._check_realm(answer)
            token_headers, found = auth.authenticate_request(answer, {}, refresh=True)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:  # no form of challenge or token
            raise self._unauthorized() from error
        if not found:
            raise self._unauthorized()
        return self._session.request(method, url, headers={**(headers or {}), **token_headers}, **given)

    def ask(self, what: str, method: str, url: str, wanted: tuple[int, ...], **given: Any) -> Any:
        """Ask, and have one of the answers that are wanted.

        Raises:
            RegistryError: there was none, or another; names `what`.
        """
        try:
            answer = self.request(method, url, **given)
        except self.network_errors as error:
            raise RegistryError(f"{self.reference}: {what}: cannot reach the registry: {printable(error)}") from error
        if answer.status_code not in wanted:
            raise self.refused(what, answer)
        return answer

    def refused(self, what: str, answer: Any) -> RegistryError:
        """What a registry said, where it did not do what it was asked for."""
        if answer.status_code in (401, 403):
            return self._unauthorized()
        return RegistryError(f"{self.reference}: {what}: the registry answered {answer.status_code}{_said(answer)}")

    def manifest(self) -> bytes:
        """The bytes of the manifest that the reference names.

        Raises:
            RegistryError: there is none.
        """
        url = self.url(f"manifests/{self.reference.version or 'latest'}")
        answer = self.ask("manifest", "GET", url, (200,), headers={"Accept": _MANIFEST}, stream=True)
        try:
            data = _read(answer, MAX_MANIFEST_BYTES)
        except self.network_errors as error:
            raise RegistryError(f"{self.reference}: manifest: cut off: {printable(error)}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise RegistryError(f"{self.reference}: manifest: expected at most {MAX_MANIFEST_BYTES} bytes")
        return data

    def put_manifest(self, data: bytes, version: str) -> None:
        """Store a manifest whose blobs are there, under a tag or its digest.

        Raises:
            RegistryError: it was refused.
        """
        headers = {"Content-Type": _MANIFEST}
        self.ask("manifest", "PUT", self.url(f"manifests/{version}"), (200, 201), headers=headers, data=data)

    def _greet(self) -> None:
        """Find out how the registry wants credentials: those of HTTP Basic go with each request, a token is fetched."""
        try:
            answer = self._session.get(self._base)
        except self.network_errors as error:
            raise RegistryError(f"cannot reach {printable(self._base)}: {printable(error)}") from error
        challenge = str(answer.headers.get("Www-Authenticate", ""))
        if answer.status_code == 401 and challenge.lower().startswith("basic") and self.is_own(answer.url):
            secret = getattr(self._remote.auth, "_basic_auth", None)
            if secret is None:
                raise self._unauthorized()
            self._basic = {"Authorization": f"Basic {secret}"}

    def _check_realm(self, answer: Any) -> None:
        """Refuse to send a password in clear text, to where a registry that is spoken to by TLS has us get a token.

        Raises:
            RegistryError: the address is such a one.
        """
        import oras.auth.utils  # noqa: PLC0415 - only with the extra

        realm = str(oras.auth.utils.parse_auth_header(answer.headers["Www-Authenticate"]).realm)
        if self._remote.prefix == "https" and realm.lower().startswith("http:"):
            expected = "expected an https:// address to get a token from, as the registry's"
            raise RegistryError(f"{self.reference}: {expected}, found {printable(realm)}")

    def _unauthorized(self) -> RegistryError:
        host = printable(self.reference.host)
        return RegistryError(f"{self.reference}: expected credentials for {host} that allow this (docker login {host})")


def _unchanged(request: Any) -> Any:
    """A request with the credentials that it has."""
    return request


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address.

    Raises:
        ValueError: it is none.
    """
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _read(answer: Any, limit: int) -> bytes:
    """What an answer holds; of one of more than `limit` bytes a little more than these.

    Raises:
        network_errors: it was cut off.
    """
    data = bytearray()
    for piece in answer.iter_content(1 << 16):
        data += piece
        if len(data) > limit:
            answer.close()
            break
    return bytes(data)


def _said(answer: Any) -> str:
    """The registry's own words for an error, in a line."""
    try:
        errors = json.loads(_read(answer, _MAX_ANSWER_BYTES))["errors"]
        return ": " + printable("; ".join(f"{error['code']} {error.get('message', '')}".strip() for error in errors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def _set_limits(session: Any) -> None:
    """Have no request wait for ever and no answer fill the memory; requests that change nothing are tried again."""
    import requests  # noqa: PLC0415 - only with the extra
    import urllib3  # noqa: PLC0415
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    class Adapter(HTTPAdapter):
        def send(self, *args: Any, **given: Any) -> Any:
            answer = super().send(*args, **{**given, "timeout": given.get("timeout") or _SECONDS})
            if not given.get("stream") or answer.is_redirect:  # `requests` would now read all of it
                data = _read(answer, _MAX_ANSWER_BYTES)
                if len(data) > _MAX_ANSWER_BYTES:
                    raise requests.RequestException(f"an answer of more than {_MAX_ANSWER_BYTES} bytes")
                answer._content = data
            return answer

    class Again(urllib3.Retry):
        def get_retry_after(self, response: Any) -> float | None:
            try:
                return min(super().get_retry_after(response) or 0.0, _MAX_WAIT_SECONDS)
            except urllib3.exceptions.HTTPError:  # it is no time
                return None

    again = Again(3, read=0, backoff_factor=0.2, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=again))
