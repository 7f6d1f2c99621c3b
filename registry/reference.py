"""Names of bundles in registries."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable

SCHEME: Final = "oci://"
_FORM: Final = "[oci://]HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """`HOST/REPOSITORY`, and of it a tag, a digest, or both: then the digest counts.

    The grammar is that of https://github.com/opencontainers/distribution-spec; digests are SHA-256.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The last part of the repository: what a bundle pulled from it is called."""
        return self.repository.rpartition("/")[2]

    @property
    def version(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag

    def at(self, digest: str) -> Reference:
        """The same by its digest alone."""
        return replace(self, tag="", digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def is_reference(text: str) -> bool:
    """Whether a bundle is named by a registry, also where the name has gone through `Path`."""
    return text.startswith("oci:/")


def parse_reference(text: str) -> Reference:
    """Read a name.

    Raises:
        UsageError: it is none.
    """
    plain = re.sub(r"\Aoci:/+", "", text)
    host, _, rest = plain.partition("/")
    rest, at, digest = rest.partition("@")
    repository, colon, tag = rest.partition(":")
    is_host = "." in host or ":" in host or host == "localhost"
    good = is_host and _HOST.fullmatch(host) and len(repository) <= 255 and _REPOSITORY.fullmatch(repository)
    if not good or bool(colon) != bool(_TAG.fullmatch(tag)) or bool(at) != bool(_DIGEST.fullmatch(digest)):
        raise UsageError(f"expected {_FORM}, found {printable(text)}")
    return Reference(host, repository, tag, digest)
