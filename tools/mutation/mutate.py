"""What the tests do not see: small mutations of our own code, each run against the tests that stand nearest.

python -m rocmforge.tools.mutation.mutate --count 200       a sample over all folders; again: goes on where it was
python -m rocmforge.tools.mutation.mutate --path runtime/engine/engine.py --count 20
python -m rocmforge.tools.mutation.mutate --again           those of the results that survived, with the tests of today
Mutates a copy, never this tree. A mutation that no test notices has survived: it wants a test, or, where it changes
nothing that matters, a line with the reason in tools/mutation/equivalent.toml.
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from rocmforge.tools.mutation.mutation import Mutation
from rocmforge.tools.mutation.nearest import nearest_tests
from rocmforge.tools.mutation.sample import FOLDERS, equivalents, mutations_of, shuffled
from rocmforge.tools.mutation.trial import Copy, Outcome

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / ".rocmforge" / "mutations.jsonl"

Record = dict[str, Any]


def _quotas(count: int, folder: str | None, path: str | None) -> Mapping[str, int]:
    """How many mutations of each folder."""
    if path is not None:
        fitting = (name for name, (patterns, _) in FOLDERS.items() if any(Path(path).match(p) for p in patterns))
        return {max(fitting, key=len, default="compiler"): count}
    if folder is not None:
        return {folder: count}
    total = sum(share for _, share in FOLDERS.values())
    return {name: round(count * share / total) for name, (_, share) in FOLDERS.items()}


def _key(mutation: Mutation, root: Path) -> tuple[str, str, str]:
    return mutation.path, *mutation.change((root / mutation.path).read_bytes())


def _diff(mutation: Mutation, root: Path) -> str:
    source = (root / mutation.path).read_bytes()
    before, after = (text.decode().splitlines(keepends=True) for text in (source, mutation.apply(source)))
    return "".join(difflib.unified_diff(before, after, mutation.path, mutation.path, n=0))


class Trials:
    """Runs mutations in a copy and remembers how each went, in a file that a later run goes on with."""

    def __init__(self, copy: Copy, results: Path, budget: float, timeout: float) -> None:
        """Args: the copy; where results are kept; seconds of tests for a mutation; seconds until it counts as hung."""
        self._copy, self._results, self._budget, self._timeout = copy, results, budget, timeout
        results.parent.mkdir(parents=True, exist_ok=True)
        records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
        self.records: dict[tuple[str, str, str], Record] = {(r["path"], r["before"], r["after"]): r for r in records}

    def run(self, mutation: Mutation, again: bool = False) -> Record:
        """Run one, or look it up."""
        root = self._copy.root
        key = _key(mutation, root)
        if key in self.records and not again:
            return self.records[key]
        tests = nearest_tests(root, mutation.path)
        outcome = Outcome("survived", 0.0)
        while tests:
            outcome = self._copy.try_out(mutation, tests, self._timeout, self._budget)
            if not outcome.by or self._copy.passes(outcome.by):
                break
            click.echo(f"{outcome.by} fails unmutated too: its file is left out", err=True)
            tests = [test for test in tests if not outcome.by.startswith(test.partition("::")[0])]
        record = {
            **{"path": key[0], "line": mutation.line((root / key[0]).read_bytes()), "operator": mutation.operator},
            **{"before": key[1], "after": key[2], "kind": outcome.kind, "by": outcome.by, "tests": tests},
            "seconds": round(outcome.seconds, 1),
        }
        with self._results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records[key] = record
        return record


def _sample(trials: Trials, root: Path, quotas: Mapping[str, int], seed: int, path: str | None) -> Iterator[Record]:
    """The records of a sample; what does not compile is no mutation, and the next one takes its place."""
    for folder, quota in quotas.items():
        compiled = (
            r for m in shuffled(root, folder, seed, path) if (r := _told(trials, m, root))["kind"] != "no compile"
        )
        for record in islice(compiled, quota):
            yield record | {"folder": folder}


def _told(trials: Trials, mutation: Mutation, root: Path, again: bool = False) -> Record:
    known = _key(mutation, root) in trials.records and not again
    record = trials.run(mutation, again)
    if not known:
        click.echo(f"{record['kind']:10} {record['seconds']:6.1f} s  {record['path']}:{record['line']} {record['by']}")
        if record["kind"] in ("survived", "timeout"):
            click.echo(_diff(mutation, root) + f"  against {' '.join(record['tests'])}\n")
    return record


def _survivors(trials: Trials, root: Path) -> Iterator[Record]:
    """Those that survived, once more; what the tree no longer has is left out."""
    old = {key for key, record in trials.records.items() if record["kind"] in ("survived", "timeout")}
    for path in sorted({key[0] for key in old}):
        for mutation in mutations_of(root, path) if (root / path).exists() else ():
            if _key(mutation, root) in old - equivalents().keys():
                yield _told(trials, mutation, root, again=True) | {"folder": "again"}


def summary(records: list[Record], known: Mapping[tuple[str, str, str], str]) -> str:
    """A line for each folder: mutations that matter, how many of them were seen, and the survivors."""
    lines, total, seen = [], 0, 0
    for folder in dict.fromkeys(record["folder"] for record in records):
        here = [r for r in records if r["folder"] == folder]
        matter = [r for r in here if r["kind"] != "survived" or (r["path"], r["before"], r["after"]) not in known]
        kinds = Counter(record["kind"] for record in matter)
        total, seen = total + len(matter), seen + len(matter) - kinds["survived"]
        counts = f"{len(matter) - kinds['survived']} of {len(matter)} seen ({kinds['timeout']} by a timeout)"
        lines.append(f"{folder:15} {counts}, {len(here) - len(matter)} change nothing that matters")
        lines += [
            f"  survived: {r['path']}:{r['line']} {r['before']}  ->  {r['after']}"
            for r in matter
            if r["kind"] == "survived"
        ]
    return "\n".join([*lines, f"score: {seen} of {total}, {100 * seen / max(total, 1):.0f} %"])


@click.command(help=__doc__)
@click.option("--seed", default=1, show_default=True, help="Of the sample: the same mutations on the same tree.")
@click.option("--count", default=200, show_default=True, help="Mutations that compile.")
@click.option("--folder", type=click.Choice(list(FOLDERS)), help="Of this folder alone.")
@click.option("--path", help="Of this file alone, such as runtime/engine/engine.py.")
@click.option(
    "--budget", default=60.0, show_default=True, help="Seconds of processors after which no other test is begun."
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds after which a mutation counts as hung.")
@click.option(
    "--results",
    default=RESULTS,
    show_default=False,
    type=click.Path(path_type=Path),
    help="[default: .rocmforge/mutations.jsonl]",
)
@click.option("--again", is_flag=True, help="Those of the results that survived.")
@click.option("--list", "listed", is_flag=True, help="Print the sample and its tests, and run nothing.")
@click.option("--minimum", default=0.0, help="Percent that must be seen; below it the exit code is 1.")
def main(
    *,
    seed: int,
    count: int,
    folder: str | None,
    path: str | None,
    budget: float,
    timeout: float,
    results: Path,
    again: bool,
    listed: bool,
    minimum: float,
) -> None:
    """See above."""
    quotas = _quotas(count, folder, path)
    if listed:
        for name, quota in quotas.items():
            for mutation in islice(shuffled(ROOT, name, seed, path), quota):
                click.echo(_diff(mutation, ROOT) + f"  against {' '.join(nearest_tests(ROOT, mutation.path))}\n")
        return
    with tempfile.TemporaryDirectory(prefix="rocmforge-mutate-") as name:
        trials = Trials(Copy(ROOT, Path(name), results.with_name("mutations_cache")), results, budget, timeout)
        root = Path(name) / "rocmforge"
        records = list(_survivors(trials, root) if again else _sample(trials, root, quotas, seed, path))
    text = summary(records, equivalents())
    click.echo(text)
    sys.exit(float(text.rsplit(maxsplit=2)[-2]) < minimum)


if __name__ == "__main__":
    main()
