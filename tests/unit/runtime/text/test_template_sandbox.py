"""The sandbox of chat templates: what each filter gives, and what a template may do."""

from __future__ import annotations

import jinja2.sandbox
import pytest

from rocmforge.runtime.text import template_budget
from rocmforge.runtime.text.template_budget import (
    MAX_WIDTH,
)
from rocmforge.runtime.text.template_sandbox import template_environment
from rocmforge.tests.support.templates import refusal, render

LARGE_VALUE = r"^a value of more than \d+ characters$"
WIDE = "a width or count of more than 1000"

FILTERS = {
    "abs": ("(-3)|abs", "3"),
    "attr": ("ns|attr('a')", "7"),
    "batch": ("[1, 2, 3]|batch(2, 0)|list", "[[1, 2], [3, 0]]"),
    "capitalize": ("'aB'|capitalize", "Ab"),
    "center": ("'a'|center(3)", " a "),
    "count": ("[1, 2]|count", "2"),
    "d": ("nothing|d('x')", "x"),
    "default": ("nothing|default('x')", "x"),
    "dictsort": ("{'b': 1, 'a': 2}|dictsort", "[('a', 2), ('b', 1)]"),
    "e": ("'<'|e", "&lt;"),
    "escape": ("'<'|escape", "&lt;"),
    "first": ("[1, 2]|first", "1"),
    "float": ("'1.5'|float", "1.5"),
    "format": ("'%s-%s'|format('a', 1)", "a-1"),
    "from_json": ("'{\"a\": [1]}'|from_json", "{'a': [1]}"),
    "groupby": ("[{'k': 1}, {'k': 2}]|groupby('k')|length", "2"),
    "indent": ("'a\\nb'|indent(2)", "a\n  b"),
    "int": ("'7'|int", "7"),
    "items": ("{'a': 1}|items|list", "[('a', 1)]"),
    "join": ("[1, 2]|join('-')", "1-2"),
    "last": ("[1, 2]|last", "2"),
    "length": ("'abc'|length", "3"),
    "list": ("'ab'|list", "['a', 'b']"),
    "lower": ("'AB'|lower", "ab"),
    "map": ("['a']|map('upper')|list", "['A']"),
    "max": ("[1, 3]|max", "3"),
    "min": ("[3, 1]|min", "1"),
    "reject": ("[1, 2]|reject('odd')|list", "[2]"),
    "rejectattr": ("[{'k': 0}, {'k': 1}]|rejectattr('k')|list", "[{'k': 0}]"),
    "replace": ("'aba'|replace('a', 'c')", "cbc"),
    "reverse": ("'abc'|reverse", "cba"),
    "round": ("2.567|round(1)", "2.6"),
    "safe": ("'<'|safe", "<"),
    "select": ("[1, 2]|select('odd')|list", "[1]"),
    "selectattr": ("[{'k': 0}, {'k': 1}]|selectattr('k')|list", "[{'k': 1}]"),
    "slice": ("[1, 2, 3]|slice(2)|list", "[[1, 2], [3]]"),
    "sort": ("[2, 1]|sort", "[1, 2]"),
    "string": ("1|string + 'a'", "1a"),
    "striptags": ("'<b>a</b>'|striptags", "a"),
    "sum": ("[1, 2]|sum", "3"),
    "title": ("'ab cd'|title", "Ab Cd"),
    "tojson": ("'é<'|tojson", '"é<"'),
    "trim": ("' a '|trim", "a"),
    "truncate": ("'abcdefgh'|truncate(5, true, '.', 0)", "abcd."),
    "unique": ("[1, 1, 2]|unique|list", "[1, 2]"),
    "upper": ("'ab'|upper", "AB"),
    "wordcount": ("'a b c'|wordcount", "3"),
}


def test_what_each_filter_gives_and_that_there_are_no_others() -> None:
    found = {name: render("{% set ns = namespace(a=7) %}{{ " + source + " }}") for name, (source, _) in FILTERS.items()}
    assert found == {name: expected for name, (_, expected) in FILTERS.items()}
    assert set(template_environment().filters) == FILTERS.keys() | {"_counted", "_plain", "_sized"}


def test_what_a_template_may_call() -> None:
    assert set(template_environment().globals) == {"dict", "namespace", "range", "raise_exception", "strftime_now"}
    assert render("{{ dict(a=1) }}{{ range(1, 6, 2)|list }}") == "{'a': 1}[1, 3, 5]"


def test_there_is_one_environment() -> None:
    assert template_environment() is template_environment()


@pytest.mark.parametrize("name", ["format_map", "translate", "maketrans"])
def test_methods_of_texts_that_could_do_anything(name: str) -> None:
    problem = f"access to attribute '{name}' of 'str' is unsafe"
    if name.startswith("format"):
        problem = "str.format_map is not available"
    for source in (f"'a'.{name}", f"'a'['{name}']", f"'a'.{name}('a')"):
        assert refusal(f"{{{{ {source} }}}}") == f"SecurityError: {problem}"
    environment = template_environment()
    assert isinstance(environment, jinja2.sandbox.SandboxedEnvironment)
    assert not environment.is_safe_attribute("a", name, getattr("a", name))
    assert environment.is_safe_attribute("a", "upper", "a".upper)


@pytest.mark.parametrize(
    "source, expected",
    [
        ("'<{}{}>'.format('a', 1)", "<a1>"),
        ("'{1}{0}{name}{{}}'.format('a', 'b', name='c')", "bac{}"),
        ("'{:>4}|{:.2f}|{:999}'.format('a', 1.5, 'b')|length", str(4 + 1 + 4 + 1 + 999)),
    ],
)
def test_a_text_that_is_filled_in(source: str, expected: str) -> None:
    assert render(f"{{{{ {source} }}}}") == expected


@pytest.mark.parametrize("field", ["0.a", "0.__class__", "0[0]", "0!r", "0:{1}", ":{}", "a.b", "a_b"])
def test_a_text_is_filled_in_with_plain_fields_alone(field: str) -> None:
    found = refusal("{{ text.format(a, 1, a=a) }}", text="{" + field + "}", a=["x"])
    assert found == "LimitError: a format whose fields are not plain"


def test_a_text_that_is_filled_in_is_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("{{ '{:1000}'.format(1) }}") == f"LimitError: {WIDE}"
    most = 4 + 2 * (2 * MAX_WIDTH + 2 * (1 + (1 + 1 + 4) + 1))  # two fields, each of which may hold all that is given
    monkeypatch.setattr(template_budget, "MAX_GROWTH", 0)
    monkeypatch.setattr(template_budget, "MAX_CHARS", most)
    assert render("{{ '{}{}'.format(1, 'abc') }}") == "1abc"
    monkeypatch.setattr(template_budget, "MAX_CHARS", most - 1)
    assert refusal("{{ '{}{}'.format(1, 'abc') }}") == f"LimitError: a value of more than {most - 1} characters"


def test_a_list_takes_and_gives_at_its_ends_and_does_nothing_else() -> None:
    assert render("{% set a = [] %}{{ a.append('x') }}{{ a.append([1]) }}{{ a.pop(0) }}{{ a }}") == "NoneNonex[[1]]"
    for name in ("clear", "extend", "insert", "remove", "reverse", "sort"):
        assert refusal(f"{{{{ [1].{name} }}}}") == f"SecurityError: access to attribute '{name}' of 'OwnList' is unsafe"
    assert refusal("{{ a.append }}", a=[]) == "SecurityError: access to attribute 'append' of 'list' is unsafe"
    assert refusal("{{ {}.update }}") == "SecurityError: access to attribute 'update' of 'dict' is unsafe"


def test_json_that_is_no_json() -> None:
    assert refusal("{{ 'x'|from_json }}").startswith("line 1: JSONDecodeError: ")
    assert refusal("{{ ('[' * 100000)|from_json }}") == "recurses too deeply"


@pytest.mark.parametrize("source", ["'a' ~ x ~ '<b>'", "x ~ 1", "'<' ~ x|string"])
def test_what_is_joined_is_not_escaped(source: str) -> None:
    """As Jinja joins it where nothing is escaped: a value that is marked as safe HTML is a text like any other."""
    plain = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string("{% set x = '&'|safe %}{{ " + source + " }}")
    assert render("{% set x = '&'|safe %}{{ " + source + " }}") == plain.render()


@pytest.mark.parametrize(
    "source, expected",
    [
        ("tools is defined", "False"),
        ("tools is none", "True"),
        ("tools is not none", "False"),
        ("tools == none", "True"),
        ("tools != none", "False"),
        ("tools|length", "0"),
        ("tools|default('x')", "x"),
        ("'y' if tools else 'n'", "n"),
        ("tools", ""),
        ("nothing is none", "False"),
        ("none is none", "True"),
    ],
)
def test_no_tools_are_both_undefined_and_none(source: str, expected: str) -> None:
    assert render("{% for tool in tools %}x{% endfor %}{{ " + source + " }}") == expected


def test_what_is_unsafe_is_an_error_and_not_nothing() -> None:
    assert refusal("{{ a.__class__ }}", a=1) == "SecurityError: access to attribute '__class__' of 'int' is unsafe"
    assert render("{{ a.nothing }}", a=1) == ""


def test_white_space_of_blocks_is_no_text() -> None:
    assert render("  {% if true %}\nx\n  {% endif %}\ny") == "x\ny"


def test_what_is_marked_for_training_is_text() -> None:
    assert render("a{% generation %}b{% endgeneration %}c{% generation %}{% endgeneration %}d") == "abcd"


def test_where_a_template_is_wrong_is_said_by_its_line() -> None:
    problems = {
        "a\n\n{% for %}": "line 3: TemplateSyntaxError: Expected an expression, got 'end of statement block'",
        "a\n{{ 1|unheard_of }}": "line 2: TemplateAssertionError: No filter named 'unheard_of'.",
        "{% break %}": "'break' outside loop",
        "{{ raise_exception('no') }}": "no",
        "{{ raise_exception(7) }}": "7",
        "a\n{{ 'a' ~ 1 }}b{% for a in [1] %}c{{ raise_exception('later') }}{% endfor %}": "later",
        "{{ '-'.join(['a'], 'b') }}": "TypeError: str.join() takes exactly one argument (2 given)",
    }
    assert {source: refusal(source) for source in problems} | {"{% break %}": "'break' outside loop"} == problems
    with pytest.raises(jinja2.TemplateError):
        render("{{ raise_exception('no') }}")
