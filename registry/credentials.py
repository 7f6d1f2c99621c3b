"""Credentials of registries, as docker, podman and skopeo keep them.

`oras` reads these files in an order that changes from run to run, and keeps of several stores of credentials the one
that it has read last: so it is given what is found here.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

from ..artifacts.errors import InputError, os_problem, printable

_MAX_FILE_BYTES: Final = 4 << 20


def load_credentials() -> dict[str, Any]:
    """What `oras` calls an auth config: of each registry what the first file says that knows it.

    Raises:
        InputError: a file is not what `docker login` writes.
    """
    auths: dict[str, Any] = {}
    helpers: dict[str, Any] = {}
    store = None
    for path in _files():
        table = _read(path)
        store = store or _field(path, table, "credsStore", str, "")
        helpers = _field(path, table, "credHelpers", dict, {}) | helpers
        for host, entry in _field(path, table, "auths", dict, {}).items():
            if isinstance(entry, dict) and not (auths.get(host) or {}).get("auth"):
                auths[host] = entry
    return {"auths": auths, "credsStore": store or None, "credHelpers": helpers}


def _files() -> list[str]:
    """The files that are there, those first that the user named."""
    found = [os.environ.get("REGISTRY_AUTH_FILE", "")]
    for variable, name in (("DOCKER_CONFIG", "config.json"), ("XDG_RUNTIME_DIR", "containers/auth.json")):
        if os.environ.get(variable):
            found.append(os.path.join(os.environ[variable], name))
    found += [os.path.expanduser(path) for path in ("~/.config/containers/auth.json", "~/.docker/config.json")]
    return [path for path in dict.fromkeys(found) if path and os.path.isfile(path)]


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            table = json.loads(file.read(_MAX_FILE_BYTES).strip() or b"{}")
    except OSError as error:
        raise InputError(path, "file", f"expected credentials of registries, found {os_problem(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, "json", f"expected credentials of registries, found {printable(error)}") from error
    if not isinstance(table, dict):
        raise InputError(path, "json", f"expected an object, found {type(table).__name__}")
    return table


def _field(path: str, table: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = table.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise InputError(path, name, f"expected {kind.__name__}, found {type(value).__name__}")
    return value
