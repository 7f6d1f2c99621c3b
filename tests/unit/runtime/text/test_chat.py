"""Chat templates: what they may do, and what a hostile one may not; for what the sandbox alone holds, in this process.

What needs a process of its own is in `test_template_process`.
"""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

import jinja2.filters
import pytest

from rocmforge.runtime.text import template_budget
from rocmforge.runtime.text.chat import CHATML, MAX_SOURCE_CHARS, ChatTemplate, check_template
from rocmforge.runtime.text.template_budget import Budget, check_growth
from rocmforge.runtime.text.template_process import ChatTemplateError
from rocmforge.runtime.text.template_worker import SandboxedTemplate, describe

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<b>é</b> 'q'"}]


def render(source: str | None, **extra: object) -> str:
    """As the process of a template does it, but in this one: faster, and no limit of the system's helps."""
    variables = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "messages": MESSAGES,
        "tools": None,
        "add_generation_prompt": True,
        **extra,
    }
    try:
        return SandboxedTemplate(CHATML if source is None else source).render(variables)
    except Exception as error:
        raise ChatTemplateError(describe(error)) from None


def test_chatml_is_the_fallback() -> None:
    assert render(None) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<b>é</b> 'q'<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(None, add_generation_prompt=False).endswith("'q'<|im_end|>\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}x{{ eos_token }}", "<s>x</s>"),
        ("{% for m in messages %}\n  {% if m.role == 'user' %}\nU\n  {% endif %}\n{% endfor %}\nE", "U\nE"),
        ("{{ messages[1]|tojson }}", '{"role": "user", "content": "<b>é</b> \'q\'"}'),
        ("{{ {'b': [1, 2], 'a': none}|tojson(indent=1) }}", '{\n "b": [\n  1,\n  2\n ],\n "a": null\n}'),
        ("{% for m in messages %}{{ loop.index ~ '/' ~ loop.length }}{{ loop.last }} {% endfor %}",
         "1/2False 2/2True "),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
         "user"),
        ("{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m['role'] %}{% endfor %}"
         "{{ ns.t }}", "systemuser"),
        ("{% macro f(a, b=2) %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}", "[12]"),
        ("{{ messages|map(attribute='role')|join(', ')|title }}", "System, User"),
        ("{{ messages[1:]|length }}{{ messages[0].get('x', 'd') }}{{ tools is none }}{{ nothing }}", "1dTrue"),
        ("{{ '%s-%02d' % ('a', 3) }}{{ 'a,b'.split(',')|last }}{{ ' x '.strip() }}{{ 2 ** 10 }}", "a-03bx1024"),
        ("{% generation %}{{ range(3)|list }}{% endgeneration %}", "[0, 1, 2]"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}", "a=1"),
        ("{{ extra_thing }}", "7"),
    ],
)  # fmt: skip
def test_templates(source: str, expected: str) -> None:
    assert render(source, extra_thing=7) == expected


def test_strftime_now() -> None:
    year = datetime.now().year
    assert render("{{ strftime_now('%Y') }}") in {str(year), str(year + 1)}
    assert render("{{ strftime_now('x' * 100) }}") == "x" * 100
    for pattern in ("x' * 101 ~ '", "%9Y"):
        with pytest.raises(ChatTemplateError, match="a date pattern that is too long, or has widths"):
            render(f"{{{{ strftime_now('{pattern}') }}}}")


def test_a_sum_begins_with_nothing() -> None:
    """One that begins with a list would grow like a square."""
    assert render("{{ [1, 2]|sum }} {{ [{'a': 3}, {'a': 4}]|sum('a') }} {{ [{'a': 5}]|sum(attribute='a') }}") == "3 7 5"
    for source in ("{{ [[1]]|sum(start=[]) }}", "{{ [[1]]|sum(none, []) }}"):
        with pytest.raises(ChatTemplateError, match="sum with a start value"):
            render(source)


def test_raise_exception_is_one_line() -> None:
    with pytest.raises(ChatTemplateError, match=r"^chat template: no\\nsystem$"):
        render("{{ raise_exception('no\\nsystem') }}")


@pytest.mark.parametrize("source", ["{% if %}", "{{ 1 +", "{% endfor %}", "{{ 1|unheard_of }}", "{{ " + "(" * 9999])
def test_a_template_that_does_not_parse(source: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        check_template(source)
    assert "\n" not in str(caught.value)


CANARY: list[str] = []


def canary() -> None:
    CANARY.append("sang")


class Carrier(dict[str, object]):
    """A message whose globals hold the canary."""

    def method(self) -> None:
        canary()


HOSTILE = [
    "{{ messages.__class__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ messages|groupby('__class__') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['canary']() }}",
    "{{ carrier.method.__globals__['canary']() }}",
    "{{ carrier.method.__func__.__globals__ }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map(messages) }}",
    "{{ ''.join.__self__.__class__ }}",
    "{{ self.__dict__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ (1).__class__.__bases__[0].__subclasses__() }}",
    "{% set x = namespace.__init__ %}{{ x.__globals__ }}",
    "{{ messages|random }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_F22_a_hostile_template_fails_clearly(source: str) -> None:
    with pytest.raises(ChatTemplateError) as caught:
        render(source, carrier=Carrier(), canary_name="canary")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("chat template: ")
    assert CANARY == []
    assert MESSAGES[0]["role"] == "system"


BOMBS = [
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "{% for i in range(10000) %}" + "x" * 10000 + "{% endfor %}",
    "{{ 'a' * 10**12 }}",
    "{{ 10**12 * 'a' }}",
    "{{ [1] * 10**9 }}",
    "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "{% set ns = namespace(n=3) %}{% for i in range(100) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s=1) %}{% for i in range(99) %}{% set ns.s = {1: ns.s, 2: ns.s} %}{% endfor %}",
    "{% set ns = namespace(s=1) %}{% for i in range(99) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(9) %}{% set ns.s = ns.s|replace('a', 'a'*99) %}{% endfor %}",
    "{% set ns = namespace(s='aa') %}{% for i in range(9) %}{% set ns.s = ns.s.replace('', 'a'*99) %}{% endfor %}",
    "{% set s = 'a' * 1000000 %}{% set b %}{% for i in range(10000) %}{{ s }}{% endfor %}{% endset %}",
    "{% macro f() %}{{ 'a' * 9999 }}{% for i in range(999) %}{{ 'a' * 9999 }}{% endfor %}{% endmacro %}{{ f() }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.encode().ljust(10**10) }}",
    "{{ 'a'|center(10**10) }}",
    "{{ ('a\n' * 100000)|indent(1000) }}",
    "{{ ('a\t' * 100000).expandtabs(1000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ 'x'.join(['y' * 1000000] * 1000) }}",
    "{{ (['y'] * 1000)|join('x' * 1000000) }}",
    "{{ range(10000)|batch(1, 'x' * 1000000)|list|length }}",
    "{{ [1]|batch(10**9, 'x')|list|length }}",
    "{{ messages|tojson(indent=10**9) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ lipsum(n=10**9) }}",
]


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_F23_a_bomb_is_defused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some by their time alone, of which they get less here."""
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(ChatTemplateError):
        render(source)
    assert time.monotonic() - start < 0.5 + 3


def test_F23_a_source_that_is_too_long_is_refused() -> None:
    for refuse in (check_template, lambda source: ChatTemplate(source, "", "").render(MESSAGES)):
        with pytest.raises(ChatTemplateError, match=f"expected at most {MAX_SOURCE_CHARS} characters, found "):
            refuse("x" * (MAX_SOURCE_CHARS + 1))


def test_F23_limits_leave_a_long_conversation_alone() -> None:
    messages = [{"role": "user", "content": "word " * 2000}] * 500
    assert len(render(None, messages=messages)) > 5_000_000


@pytest.mark.parametrize(
    "name, value, args, size",
    [
        ("join", "--", (["ab", "c", "d"],), 8 + 2 * 3),
        ("indent", "a\nb\nc", (7,), 5 + 4 * 7),
        ("indent", "a\nb\nc", ("1234567",), 5 + 4 * 7),
        ("expandtabs", "a\tb", (9,), 3 + 3 * 9),
        ("expandtabs", "a\tb", (), 3 + 3 * 8),
        ("replace", "aaa", ("a", "bcd"), 3 + 3 * 3),
    ],
)
def test_F23_what_a_text_would_grow_to_is_known_before_it_is_made(
    name: str, value: str, args: tuple[Any, ...], size: int
) -> None:
    """The bound is not below what comes out, and not far above it."""
    real = len(jinja2.filters.do_indent(value, args[0], True) if name == "indent" else getattr(value, name)(*args))
    assert real <= size
    check_growth(name, value, args, Budget(size, math.inf))
    with pytest.raises(Exception, match=f"more than {size - 1}"):
        check_growth(name, value, args, Budget(size - 1, math.inf))
