"""What a manifest says went into a bundle, as rows that two bundles can be compared by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .dataclass import dataclass
from .errors import printable
from .manifest import Manifest
from .manifest_entries import TargetEntry


@dataclass(frozen=True, slots=True)
class Difference:
    """A thing that two builds took of which each says another; None where one says nothing."""

    what: str
    first: object
    second: object

    def text(self, first: str, second: str) -> str:
        """Return a line; `first` and `second` say whose each is."""
        values = [
            f"{name} {'nothing' if value is None else printable(value)}"
            for name, value in ((first, self.first), (second, self.second))
        ]
        return f"{printable(self.what)}: {', '.join(values)}"


def build_record(manifest: Manifest) -> dict[str, object]:
    """Return all that a bundle was made of and by, by dotted names; the model first, rocmforge last."""
    rows: dict[str, object] = {"model.sha256": manifest.model.source_sha256}
    rows.update(_flat("options", manifest.options))
    rows.update(_of_targets("targets", manifest.targets))
    for part, entry in manifest.parts.items():
        rows.update(_of_targets(f"parts.{part}.targets", entry.targets))
        rows.update(_flat(f"parts.{part}.facts", entry.facts))
    rows["rocmforge"] = manifest.generator
    rows["format_version"] = manifest.format_version
    return rows


def _of_targets(table: str, targets: Sequence[TargetEntry]) -> Iterator[tuple[str, object]]:
    for target in targets:
        name = f"{table}.{' '.join(filter(None, (target.arch, target.level)))}"
        yield f"{name}.toolchain", f"{target.toolchain} {target.toolchain_version}"
        yield f"{name}.flags", " ".join(target.flags)


def record_differences(first: Manifest, second: Manifest) -> list[Difference]:
    """Return the rows of two records that are not equal."""
    one, other = build_record(first), build_record(second)
    names = dict.fromkeys([*one, *other])
    return [Difference(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)]


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _flat(f"{name}.{key}", value[key])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flat(f"{name}[{index}]", item)
    else:
        yield name, value
