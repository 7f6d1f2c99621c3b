"""The budget of chat templates: what each construct costs, and where each limit lies."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.runtime.text import template_budget
from rocmforge.runtime.text.template_budget import (
    MAX_CHARS,
    MAX_GROWTH,
    MAX_INT_BITS,
    MAX_RANGE,
    MAX_SECONDS,
    MAX_STEPS,
    MAX_WIDTH,
    Budget,
    budgeted,
    check_growth,
    check_percent,
    current_budget,
    weight_of,
)
from rocmforge.tests.support.templates import refusal, render

LARGE_VALUE = r"^a value of more than \d+ characters$"
WIDE = "a width or count of more than 1000"


# A template, the steps that it takes, and the characters that it puts out. A template's own text is put out in a step.
COSTS = [
    ("", 0, 0),
    ("abc", 1, 3),
    ("{{ 'abc' }}", 1, 3),
    ("{{ 1 + 2 }}", 2, 1),
    ("{{ 7 - 2 * 3 }}", 3, 1),
    ("{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ 7 % 4 }}", 8, 6),
    ("{{ 'a' ~ 1 }}", 4, 2),
    ("{{ 'a' ~ 1 ~ 'b' }}", 6, 3),
    ("{{ 'a'|upper }}", 2, 1),
    ("{{ [1, 2] }}", 2, 6),
    ("{{ (1, 2) }}", 2, 6),
    ("{{ {'a': 1} }}", 2, 8),
    ("{{ [1, 2]|join('-') }}", 5, 3),
    ("{{ '-'.join([1|string, 2|string]) }}", 7, 3),
    ("{{ 'a'.upper() }}", 2, 1),
    ("{{ 'a'|tojson }}", 2, 3),
    ("{% for i in range(3) %}{% endfor %}", 4, 0),
    ("{% for i in 'ab' %}{{ i }}{% endfor %}", 4, 2),
    ("{% for a, b in [(1, 2)] %}{{ a }}{% endfor %}", 4, 1),
    ("{% macro f() %}ab{% endmacro %}{{ f() }}", 3, 4),
    ("{% set x %}abc{% endset %}{{ x }}", 2, 6),
    ("{% for i in [1, 2] %}x{{ 'a' ~ i }}{% endfor %}", 13, 6),
    ("{{ [[1], 'a' ~ 1] }}", 6, 11),
    ("{{ {'a': [1], 'b': {}} }}", 4, 19),
    ("{{ ((1, 2), [3]) }}", 4, 13),
    ("{{ 'a' ~ ('b' ~ 'c')|upper }}", 8, 3),
]


@pytest.mark.parametrize("source, steps, output", COSTS, ids=[source for source, _, _ in COSTS])
def test_what_a_template_costs(monkeypatch: pytest.MonkeyPatch, source: str, steps: int, output: int) -> None:
    made: list[Any] = []

    def budget(*arguments: Any) -> Any:
        made.append(original(*arguments))
        return made[-1]

    original = Budget
    monkeypatch.setattr(template_budget, "Budget", budget)
    render(source)
    assert [(one.steps, one.output) for one in made] == [(steps, output)]


def test_a_budget_is_by_what_the_caller_gives_and_ends_with_the_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "time", SimpleNamespace(monotonic=lambda: 50.0))
    with budgeted({"a": "xyz", "b": [1, "ab"]}):
        budget = current_budget()
        assert (budget.max_chars, budget.deadline) == (MAX_CHARS + MAX_GROWTH * (4 + 5), 50.0 + MAX_SECONDS)
        assert (budget.steps, budget.output) == (0, 0)
    with pytest.raises(Exception, match=r"^no rendering$"):
        current_budget()
    with pytest.raises(ZeroDivisionError), budgeted({}):
        raise ZeroDivisionError
    with pytest.raises(Exception, match=r"^no rendering$"):
        current_budget()


def test_each_limit_of_a_budget_is_met_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(template_budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    budget = Budget(5, 10.0, MAX_STEPS - 2)
    budget.step()
    now[0] = 10.5
    with pytest.raises(Exception, match=f"^takes more than {MAX_SECONDS:g} s$"):
        budget.step()
    now[0] = 10.0
    with pytest.raises(Exception, match=f"^more than {MAX_STEPS} steps$"):
        budget.step()
    budget.size(5)
    with pytest.raises(Exception, match=r"^a value of more than 5 characters$"):
        budget.size(6)
    assert budget.value("abcd") == "abcd"
    with pytest.raises(Exception, match=r"^a value of more than 5 characters$"):
        budget.value("abcde")
    assert budget.value(2**MAX_INT_BITS - 1) == 2**MAX_INT_BITS - 1
    with pytest.raises(Exception, match=f"^an integer of more than {MAX_INT_BITS} bits$"):
        budget.value(2**MAX_INT_BITS)
    budget.emit(2)
    budget.emit(3)
    with pytest.raises(Exception, match=r"^an output of more than 5 characters$"):
        budget.emit(1)


@pytest.mark.parametrize(
    "value, weight",
    [
        (None, 1),
        (12345, 1),
        ("abc", 4),
        (b"ab", 3),
        ([], 1),
        (["a", ("b", {"c"}), frozenset("d")], 1 + 2 + (1 + 2 + (1 + 2)) + (1 + 2)),
        ({"ab": [1, "c"]}, 1 + 3 + (1 + 1 + 2)),
        (range(1000), 1),
    ],
)
def test_what_a_value_weighs(value: object, weight: int) -> None:
    assert weight_of(value, 1000) == weight_of(value, weight) == weight
    assert weight_of(value, weight - 1) > weight - 1


def test_a_long_list_is_not_looked_into() -> None:
    assert weight_of([1] * 9, 10) == 10
    assert weight_of([1] * 10, 10) == 11
    assert weight_of([object()] * 10_000, 10) == 11


NARROW: dict[str, Callable[[int], str]] = {
    "batch": lambda width: f"[1]|batch({width})|list|length",
    "center": lambda width: f"'a'|center({width})|length",
    "indent": lambda width: f"'a\\nb'|indent({width})|length",
    "slice": lambda width: f"[1]|slice({width})|list|length",
    "truncate": lambda width: f"'abc'|truncate({width})|length",
    "indent by name": lambda width: f"'a\\nb'|indent(width={width})|length",
    ".center": lambda width: f"'a'.center({width})|length",
    ".expandtabs": lambda width: f"'a\\t'.expandtabs({width})|length",
    ".expandtabs by name": lambda width: f"'a\\t'.expandtabs(tabsize={width})|length",
    ".ljust": lambda width: f"'a'.ljust({width})|length",
    ".rjust": lambda width: f"'a'.rjust({width})|length",
    ".zfill": lambda width: f"'a'.zfill({width})|length",
    "b.zfill": lambda width: f"'a'.encode().zfill({width})|length",
}


@pytest.mark.parametrize("source", NARROW.values(), ids=NARROW.keys())
def test_widths_and_counts_are_bounded(source: Callable[[int], str]) -> None:
    assert int(render(f"{{{{ {source(MAX_WIDTH)} }}}}")) >= 1
    assert refusal(f"{{{{ {source(MAX_WIDTH + 1)} }}}}") == f"LimitError: {WIDE}"
    assert refusal(f"{{{{ {source(-MAX_WIDTH - 1)} }}}}") == f"LimitError: {WIDE}"


@pytest.mark.parametrize("source", ["'%999d' % 1", "'%999d'|format(1)", "'a%sb%%' % 1", "'12 345 678' % ()"])
def test_formats_that_are_narrow(source: str) -> None:
    assert render(f"{{{{ {source} }}}}")


@pytest.mark.parametrize(
    "source, problem",
    [
        ("'%1000d' % 1", WIDE),
        ("'%.1000f' % 1", WIDE),
        ("'%1000d'|format(1)", WIDE),
        ("'%*d' % (9, 1)", "a format with a variable width"),
        ("'%*d'|format(9, 1)", "a format with a variable width"),
    ],
)
def test_formats_that_may_be_wide(source: str, problem: str) -> None:
    assert refusal(f"{{{{ {source} }}}}") == f"LimitError: {problem}"


def test_a_star_or_a_percent_sign_alone_is_no_variable_width() -> None:
    assert render("{{ '2 * 3' % () }}{{ '%d' % 6 }}") == "2 * 36"


def test_what_a_format_would_make_is_known_before() -> None:
    """For each percent sign a width, and all that is filled in."""
    budget = Budget(4 + 2 * (MAX_WIDTH + 2 * (1 + 2 + 3)), math.inf)
    check_percent("%s%s", ("a", "bc"), budget)
    budget.max_chars -= 1
    with pytest.raises(Exception, match=LARGE_VALUE):
        check_percent("%s%s", ("a", "bc"), budget)


@pytest.mark.parametrize(
    "source, weight", [("'%s%s' % (a, b)", 10), ("'%s%s'|format(a, b)", 11), ("'%(a)s%(b)s'|format(a=a, b=b)", 15)]
)
def test_a_format_is_bounded_by_all_that_is_filled_in(
    monkeypatch: pytest.MonkeyPatch, source: str, weight: int
) -> None:
    length = len(source.split("'")[1])
    monkeypatch.setattr(template_budget, "MAX_GROWTH", 0)
    monkeypatch.setattr(template_budget, "MAX_CHARS", length + 2 * (MAX_WIDTH + 2 * weight))
    assert render(f"{{{{ {source} }}}}", a="abc", b="defg") == "abcdefg"
    monkeypatch.setattr(template_budget, "MAX_CHARS", template_budget.MAX_CHARS - 1)
    assert "a value of more than" in refusal(f"{{{{ {source} }}}}", a="abc", b="defg")


def test_numbers_that_are_too_long() -> None:
    many = MAX_INT_BITS // 2
    assert render(f"{{{{ 2 ** {many} }}}}") == str(2**many)
    assert render("{{ 2.0 ** 1000 }}") == str(2.0**1000)
    assert render(f"{{{{ 2 ** -{many} }}}}") == str(2.0**-many)
    too_many_bits = f"LimitError: an integer of more than {MAX_INT_BITS} bits"
    for source in (f"2 ** {many + 1}", f"2 ** -{many + 1}", "a * a", "a + a", "a|int * 2"):
        assert refusal(f"{{{{ {source} }}}}", a=2 ** (MAX_INT_BITS - 1)) == too_many_bits


def test_a_range_that_is_too_long() -> None:
    assert render(f"{{{{ range({MAX_RANGE})|length }}}}{{{{ range(5, {MAX_RANGE} + 5)|length }}}}") == "1000010000"
    assert refusal(f"{{{{ range({MAX_RANGE} + 1) }}}}") == f"LimitError: a range of more than {MAX_RANGE} numbers"


@pytest.fixture
def made_large(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of values that were made and then found too large; 100 characters are allowed, whatever is given."""
    monkeypatch.setattr(template_budget, "MAX_CHARS", 100)
    monkeypatch.setattr(template_budget, "MAX_GROWTH", 0)
    value, found = Budget.value, list[str]()

    def told(budget: Any, made: Any) -> Any:
        if weight_of(made, budget.max_chars) > budget.max_chars:
            found.append(type(made).__name__)
        return value(budget, made)

    monkeypatch.setattr(Budget, "value", told)
    return found


TOO_LARGE = "LimitError: a value of more than 100 characters"
# The largest n with which it is made, of a text `t` of n letters.
GROWING = [
    ("'ab' * n", 33),
    ("n * 'ab'", 33),
    ("([1, 2] * n)|length", 33),
    ("(n * (1, 2))|length", 33),
    ("t + t", 49),
    ("t ~ t", 49),
    ("t.replace('a', 'bbb')", 24),
    ("t|replace('a', 'bbb')", 24),
    ("'aaa'|replace('a', t)", 32),
    ("t.replace('', 'b')", 49),
    ("t.encode().replace('a'.encode(), 'bbb'.encode())", 24),
    ("'--'.join(n * ('a',))|length", 24),
    ("t.join(['x', 'y', 'z'])|length", 30),
    ("['x', 'y', 'z']|join(t)|length", 30),
    ("('b' * n)|join('--')|length", 24),
    ("('x\ny'|indent(n))|length", 32),
    ("('x\ny'|indent(t))|length", 32),
    ("'\t'.expandtabs(n)|length", 98),
    ("(t ~ '\t').expandtabs(2)|length", 31),
]


@pytest.mark.parametrize("use", ["{{ b }}", "{{ b ~ '' }}", "{{ b|string|length }}", "{{ b|upper|length }}"])
def test_what_a_list_grows_to_is_measured_wherever_it_lies(made_large: list[str], use: str) -> None:
    """Each of the lists that hold one another is small when it is made; then what they all hold grows."""
    doubled = "{% set a = [] %}{% set n = namespace(b=a) %}"
    doubled += "{% for i in range(4) %}{% set n.b = [n.b, n.b] %}{% endfor %}"
    assert "[]" in render(doubled + "{{ n.b[0] }}")
    assert refusal(f"{doubled}{{% set _ = a.append('x' * 50) %}}{use.replace('b', 'n.b', 1)}") == TOO_LARGE
    assert made_large == ["OwnList"]  # and not its text
    assert refusal("{% set a = [] %}{% for i in range(100) %}{% set _ = a.append('xxxxx') %}{% endfor %}") == TOO_LARGE
    assert refusal("{% set a = [] %}{% set _ = a.append(a) %}{{ a }}") == TOO_LARGE


@pytest.mark.parametrize("source, most", GROWING, ids=[source for source, _ in GROWING])
def test_a_large_value_is_refused_before_it_is_made(made_large: list[str], source: str, most: int) -> None:
    assert render(f"{{{{ {source} }}}}", n=most, t="a" * most)
    assert refusal(f"{{{{ {source} }}}}", n=most + 5, t="a" * (most + 5)) == TOO_LARGE
    assert made_large == []


@pytest.mark.parametrize(
    "source", ["t.find('a', 0)", "t|default([1, 2, 3])|length", "[1, 2]|join", "[1, 2]|join(0)", "t|replace('a')"]
)
def test_what_makes_nothing_large_is_left_alone(made_large: list[str], source: str) -> None:
    if source.endswith("replace('a')"):  # Jinja says what is missing
        assert "missing" in refusal(f"{{{{ {source} }}}}", t="a" * 60)
    else:
        assert render(f"{{{{ {source} }}}}", t="a" * 60)
    assert made_large == []


def test_an_empty_text_is_found_around_every_byte() -> None:
    check_growth("replace", b"aaa", (b"", b"xyz"), Budget(15, math.inf))
    with pytest.raises(Exception, match=LARGE_VALUE):
        check_growth("replace", b"aaa", (b"", b"xyz"), Budget(14, math.inf))


@pytest.mark.parametrize(
    "source", ["t ~ 'a'", "[t]", "(t, 1)", "{1: t}", "t|upper", "t.upper()", "[1]|map('string')|list + [t]", "n * n"]
)
def test_what_is_large_once_it_is_made_goes_no_further(made_large: list[str], source: str) -> None:
    problem = refusal(f"{{{{ {source} }}}}", t="a" * 100, n=2**600)
    assert problem == (TOO_LARGE if "t" in source else f"LimitError: an integer of more than {MAX_INT_BITS} bits")


@pytest.mark.parametrize("source", ["'%s' % t", "'%s'|format(t)"])
def test_a_filled_in_format_is_bounded_by_its_width_first(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_budget, "MAX_GROWTH", 0)
    assert render(f"{{{{ {source} }}}}", t="a" * 90)
    monkeypatch.setattr(template_budget, "MAX_CHARS", MAX_WIDTH)
    assert refusal(f"{{{{ {source} }}}}", t="a") == f"LimitError: a value of more than {MAX_WIDTH} characters"


def test_small_values_times_nothing_are_nothing() -> None:
    assert render("{{ 'ab' * 0 }}{{ 'ab' * -3 }}{{ 2.5 * 2 }}{{ [1] * 2 }}{{ 'a' + 'b' }}{{ 1 + 2 }}") == "5.0[1, 1]ab3"


JSON: list[tuple[Mapping[str, Any], str]] = [
    ({}, '{"b": [1, "é<"], "a": null}'),
    ({"ensure_ascii": True}, '{"b": [1, "\\u00e9<"], "a": null}'),
    ({"sort_keys": True}, '{"a": null, "b": [1, "é<"]}'),
    ({"indent": 1}, '{\n "b": [\n  1,\n  "é<"\n ],\n "a": null\n}'),
    ({"indent": "\t"}, '{\n\t"b": [\n\t\t1,\n\t\t"é<"\n\t],\n\t"a": null\n}'),
    ({"separators": (",", ":")}, '{"b":[1,"é<"],"a":null}'),
]


@pytest.mark.parametrize("options, expected", JSON)
def test_json_as_templates_expect_it(options: Mapping[str, Any], expected: str) -> None:
    value = {"b": [1, "é<"], "a": None}
    assert render("{{ v|tojson(**o) }}", v=value, o=options) == expected
    assert json.loads(expected) == value


@pytest.mark.parametrize(
    "good, bad",
    [
        ({"indent": 16}, {"indent": 17}),
        ({"indent": " " * 16}, {"indent": " " * 17}),
        ({"separators": ("," * 16, ":")}, {"separators": ("," * 17, ":")}),
        ({"separators": (",", ":" * 16)}, {"separators": (",", ":" * 17)}),
    ],
)
def test_json_is_not_made_wide(good: Mapping[str, Any], bad: Mapping[str, Any]) -> None:
    assert render("{{ [1]|tojson(**o) }}", o=good)
    assert refusal("{{ [1]|tojson(**o) }}", o=bad) == "LimitError: a JSON indent of more than 16"


def test_json_ends_where_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_GROWTH", 0)
    length = MAX_CHARS - 4  # and its quotes, and its brackets
    assert render("{{ [a]|tojson|length }}", a="a" * length) == str(MAX_CHARS)
    problem = f"LimitError: a value of more than {MAX_CHARS} characters"
    assert refusal("{{ [a]|tojson|length }}", a="a" * (length + 1)) == problem
