"""`rfc diff`: what two bundles share: files, what went into them, kernels, weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ..artifacts.build_record import Difference, record_differences
from ..artifacts.bundle import Bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Shared:
    """What two bundles have of one kind of thing.

    Attributes:
        both: how many are equal in both.
        n_bytes: of these, where they have a size.
        differ: names that both have, with other content,
        first: that only the first has,
        second: that only the second has.
    """

    both: int
    n_bytes: int
    differ: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.differ or self.first or self.second)


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """What two bundles share. `record`: what went into them that is not equal."""

    digests: tuple[str, str]
    record: tuple[Difference, ...]
    files: Shared
    kernels: Shared
    weights: Shared

    @property
    def identical(self) -> bool:
        """Whether they are equal to the byte."""
        return self.digests[0] == self.digests[1]


def diff_bundles(first: Bundle, second: Bundle) -> BundleDiff:
    """Compare two bundles that were verified. Tensors are equal where name, packing, shape and bytes are.

    Raises:
        BundleError: the weights of one cannot be read.
    """
    one, other = first.manifest, second.manifest
    return BundleDiff(
        (one.bundle_digest, other.bundle_digest),
        tuple(record_differences(one, other)),
        _shared(*({name: (entry.sha256, entry.n_bytes) for name, entry in m.files.items()} for m in (one, other))),
        _shared(_kernels(one), _kernels(other)),
        _shared(_tensors(first), _tensors(second)),
    )


def _kernels(manifest: Manifest) -> dict[str, tuple[str, int]]:
    """Return the kernels by symbol, which stands for template and parameters; what differs then is their row."""
    rows = {str(row.get("symbol")): row for row in manifest.kernels}
    for name, part in manifest.parts.items():
        rows |= {f"{name} {row.get('symbol')}": row for row in part.kernels}
    return {symbol: (repr(sorted(row.items(), key=str)), 0) for symbol, row in rows.items()}


def _tensors(bundle: Bundle) -> dict[str, tuple[str, int]]:
    """Return digest and bytes of each packed tensor, by its name and packing; of a part's own, with the part before."""
    manifest, found = bundle.manifest, {}
    for backend in sorted({target.backend for target in manifest.targets}):
        weights, seen = memoryview(b""), set[int]()
        for part, targets in (("", manifest.targets), *((f"{n} ", one.targets) for n, one in manifest.parts.items())):
            layouts = {target.layout for target in targets if target.backend == backend}
            tensors = {entry.offset: entry for name in layouts for entry in bundle.layouts[name].tensors}
            weights = weights or memoryview(bundle.map_weights(backend)) if tensors else weights
            for entry in (one for offset, one in tensors.items() if offset not in seen):
                content = hashlib.sha256(weights[entry.offset : entry.offset + entry.n_bytes]).hexdigest()
                found[f"{part}{entry.name} {entry.packing}"] = (f"{entry.shape} {content}", entry.n_bytes)
            seen |= tensors.keys()
    return found


def _shared(first: Mapping[str, tuple[str, int]], second: Mapping[str, tuple[str, int]]) -> Shared:
    """Compare things by name; each has its content and its bytes."""
    common = [name for name in first if name in second]
    equal = [name for name in common if first[name] == second[name]]
    return Shared(
        both=len(equal),
        n_bytes=sum(first[name][1] for name in equal),
        differ=tuple(sorted(set(common) - set(equal))),
        first=tuple(sorted(first.keys() - second.keys())),
        second=tuple(sorted(second.keys() - first.keys())),
    )
