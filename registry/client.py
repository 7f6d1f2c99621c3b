"""Requests to one repository of a registry, by `oras`: addresses, credentials and tokens are its matter.

What it does not do is done here: uploads and downloads that go on where they were cut off (`transfer.py`), limits of
time, credentials of HTTP Basic, and the files of credentials that podman and skopeo keep. Its own `do_request` waits
for a minute where a registry says that something is broken.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from ..artifacts.errors import RocmforgeError, printable
from .errors import RegistryError
from .reference import Reference

MISSING: Final = "registries need the extra `oci`: pip install 'rocmforge[oci]'"
MAX_MANIFEST_BYTES: Final = 4 << 20
_SECONDS: Final = (15.0, 60.0)  # to connect, and between two pieces of an answer
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
        _limit_time(self._session)
        self._base = f"{self._remote.prefix}://{host}/v2/"
        container = oras.container.Container(f"{host}/{reference.repository}", registry=host)
        self._remote.auth.load_configs(container, configs=_credential_files())
        self._greet()

    def url(self, path: str) -> str:
        """The address of something in the repository, as `blobs/sha256:…`."""
        return f"{self._base}{self.reference.repository}/{path}"

    def absolute(self, location: str) -> str:
        """The address that an answer gave, which may be relative."""
        return urllib.parse.urljoin(self._base, location)

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
        auth, given = self._remote.auth, {"data": data, "stream": stream}
        answer = self._session.request(method, url, headers={**(headers or {}), **auth.get_auth_header()}, **given)
        challenge = str(answer.headers.get("Www-Authenticate", "")).lower()
        if answer.status_code not in (401, 403) or not (challenge.startswith("bearer") and "realm=" in challenge):
            return answer
        # No token yet, or one for something else, or one that has expired.
        token_headers, found = auth.authenticate_request(answer, {}, refresh=True)
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
        data = b""
        for chunk in answer.iter_content(1 << 16):
            data += chunk
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
        if answer.status_code == 401 and challenge.lower().startswith("basic"):
            secret = getattr(self._remote.auth, "_basic_auth", None)
            if secret is None:
                raise self._unauthorized()
            self._session.auth = _Basic(secret)

    def _unauthorized(self) -> RegistryError:
        host = printable(self.reference.host)
        return RegistryError(f"{self.reference}: expected credentials for {host} that allow this (docker login {host})")


class _Basic:
    """Puts credentials on each request. Other places that it is sent on to do not get them: `requests` sees to that."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Basic {self._secret}"
        return request


def _said(answer: Any) -> str:
    """The registry's own words for an error, in a line."""
    try:
        errors = answer.json()["errors"]
        return ": " + printable("; ".join(f"{error['code']} {error.get('message', '')}".strip() for error in errors))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _limit_time(session: Any) -> None:
    """Have no request wait for ever; those that change nothing are tried again."""
    import urllib3  # noqa: PLC0415 - only with the extra
    from requests.adapters import HTTPAdapter  # noqa: PLC0415

    class Adapter(HTTPAdapter):
        def send(self, *args: Any, **given: Any) -> Any:
            return super().send(*args, **{**given, "timeout": given.get("timeout") or _SECONDS})

    again = urllib3.Retry(3, read=0, backoff_factor=0.2, status_forcelist=(429, 502, 503, 504), raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(max_retries=again))


def _credential_files() -> list[str]:
    """Files of credentials, as docker, podman and skopeo keep them; `oras` adds ~/.docker/config.json by itself."""
    found = [os.environ.get("REGISTRY_AUTH_FILE", "")]
    for variable, name in (("DOCKER_CONFIG", "config.json"), ("XDG_RUNTIME_DIR", "containers/auth.json")):
        if os.environ.get(variable):
            found.append(os.path.join(os.environ[variable], name))
    found.append(os.path.expanduser("~/.config/containers/auth.json"))
    return [path for path in found if path and os.path.isfile(path)]
