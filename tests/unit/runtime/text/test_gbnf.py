"""GBNF: what a grammar takes, judged by hand and by Python's re; what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.runtime.text.constraints import ConstraintCompiler, ConstraintError, ConstraintSpec
from rocmforge.runtime.text.gbnf import MAX_DEPTH, MAX_REPEATS, MAX_RULES, GbnfError, is_gbnf, lark_of

END = 256


class _Bytes:
    """A tokenizer of bytes."""

    def __init__(self) -> None:
        self.config = TokenizerConfig(None, (END,), False, False, "", "</s>", END + 1, END)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        return bytes([token_id]) if token_id < END else b"" if skip_special else b"</s>"


COMPILER = ConstraintCompiler(_Bytes())  # type: ignore[arg-type]


def accepts(grammar: str, text: str) -> bool:
    """Whether a whole text is what the grammar wants, a byte a token."""
    matcher = COMPILER.compile(ConstraintSpec("grammar", grammar, "grammar"))
    bytes_ = text.encode()
    for index, byte in enumerate(bytes_):
        if not matcher.mask()[byte // 32] >> (byte % 32) & 1:
            return False
        if matcher.take(byte):
            return index + 1 == len(bytes_)
    return bool(matcher.mask()[END // 32] >> (END % 32) & 1)


OBJECT = r"""
# an object
root   ::= "{" ws pair ("," ws pair)* "}"   # of pairs
pair   ::= "\"" [a-z]+ "\"" ":" ws number
number ::= [0-9]{1,3}
ws     ::= [ \t]*
"""
SUM = """root ::= term ("+" term)*
term ::= [0-9]+ | "(" root ")" """
# Grammar, texts that it takes, texts that it does not.
CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "object": (
        OBJECT,
        ['{"a":1}', '{ "ab": 123,"c":\t4}'],
        ['{"a":1234}', '{"A":1}', "{}", '{"a":1', '["a"]', '{"a":1,}'],
    ),
    "recursion": (SUM, ["1", "1+(2+33)+4", "((7))"], ["", "1+", "(1", "1)", "+1"]),
    "left-recursion": ('root ::= root "a" | "b"', ["b", "baaa"], ["", "a", "ab"]),
    "a-literal-within-a-class": ('root ::= [a-z]{2} "1" | "ab" "2"', ["ab1", "ab2", "xy1"], ["xy2", "ab"]),
    "a-literal-after-a-class": ('root ::= [a-z]* "ab" "."', ["ab.", "abab.", "xxab."], ["a.", "ab", "aba."]),
    "a-comment-in-c": ('root ::= "/*" ([^*] | "*" [^/])* "*/"', ["/**/", "/* a * b */"], ["/*/", "/* a"]),
    "any-character": ("root ::= . .", ["ab", "\n\n", "é🤗"], ["a", "abc", ""]),
    "negated-class": (r"root ::= [^\n\]x-z]+", ["abc", "[^-é", "\t"], ["", "a\n", "]", "y"]),
    "hyphens": (r"root ::= [-a] [a-] [\-b]", ["---", "aab"], ["b--", "-b-"]),
    "escapes": (
        r'root ::= "\x41\u00e9\U0001F917\t\r\n\\\"\[\]" [\x30-\u0033]',
        ['Aé🤗\t\r\n\\"[]2'],
        ['Aé🤗\t\r\n\\"[]4'],
    ),
    "repeats": (
        'root ::= ("ab"){2} "c"{0,1} "d"{1,} ("ef"?){2,3}',
        ["ababcd", "ababddefefef", "ababdef"],
        ["abcd", "ababccd", "ababc", "ababdefefefef"],
    ),
    "many-repeats": ("root ::= [ab]{0,5000}", ["", "ab" * 40], ["c"]),  # as llama.cpp: no limit
    "repeats-of-repeats": ('root ::= "a"?+{2} (("b" "c")*)*', ["", "aa", "aabcbc"], ["b", "ab"]),
    "the-ends-of-unicode": (r"root ::= [\U0010ffff] [\ud7ff\ue000]", ["\U0010ffff\ud7ff", "\U0010ffff\ue000"], ["a"]),
    "spaces-in-repeats": (
        'root ::= "a" { 2 , 3 }\t"b"{ 1 } "c" { 1 , } {1}',
        ["aabc", "aaabccc"],
        ["abc", "aab", "aabbc", "aaaabc"],
    ),
    "newlines-in-repeats": ('root ::= ("a"\n{\n2\n,\n3\n}\n)', ["aa", "aaa"], ["a", "aaaa"]),
    "nothing": ('root ::= "" | "a" |', ["", "a"], ["b", "aa"]),
    "newlines": (
        'root ::=\n  "a" |\n  "b" ( # one\n "c"\r\n | "d"\n ) rest\r\nrest ::= "e"*\n\n',
        ["a", "bc", "bdee"],
        ["b", "bcd"],
    ),
    "names": ('root ::= a-b A-b a_b 1\na-b ::= "1"\nA-b ::= "2"\na_b ::= "3"\n1 ::= "4"', ["1234"], ["1134"]),
    "twice": ('root ::= "a"\nroot ::= "b"', ["b"], ["a"]),
    "deep": (f"root ::= {'(' * MAX_DEPTH}[0-9]{')' * MAX_DEPTH}", ["7"], ["77"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_grammar_takes(name: str) -> None:
    grammar, taken, others = CASES[name]
    assert is_gbnf(grammar)
    assert [text for text in taken if not accepts(grammar, text)] == []
    assert [text for text in others if accepts(grammar, text)] == []


def joined(parts: list[tuple[str, str]], gbnf: str, expression: str) -> tuple[str, str]:
    return f"({gbnf.join(part[0] for part in parts)})", f"(?:{expression.join(part[1] for part in parts)})"


ITEMS = st.sampled_from(
    [("[ab]", "[ab]"), ("[^a]", "[^a]"), (".", "."), ('"ab"', "(?:ab)"), ('"ba"', "(?:ba)"), ('"a"', "a"), ('""', "")]
)
# The same twice: as GBNF and as one of Python's expressions.
EXPRESSIONS = st.recursive(
    ITEMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: joined(parts, " ", "")),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: joined(parts, " | ", "|")),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}"])).map(
            lambda pair: (pair[0][0] + pair[1], f"(?:{pair[0][1]}){pair[1]}")
        ),
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=150)
@given(EXPRESSIONS, st.lists(st.text("abc", max_size=6), min_size=8, max_size=8))
def test_a_grammar_without_recursion_takes_what_an_expression_takes(both: tuple[str, str], texts: list[str]) -> None:
    gbnf, expression = both
    for text in texts:
        assert accepts(f"root ::= {gbnf}", text) == bool(re.fullmatch(expression, text)), text


WRONG = {
    "unknown-rule": ("root ::= x", "line 1, column 10: there is no rule 'x'"),
    "no-root": ('a ::= "a"', "there is no rule 'root'"),
    "open-string": ('root ::= "a', "line 1, column 12: expected more, found the end"),
    "open-class": ("root ::= [a", "expected more, found the end"),
    "open-group": ('root ::= "b" |\n ("a"', "line 2, column 6: expected )"),
    "no-name": ('root ::= "a"\n| "b"', "line 2, column 1: expected the name of a rule"),
    "no-newline": ('root ::= "a" ) "b"', "line 1, column 14: expected a newline, or the end"),
    "no-sign": ('root ::= "a"\nb = "a"', "line 2, column 3: expected ::="),
    "empty-class": ("root ::= [^]", "expected at least one character"),
    "falling-range": ("root ::= [z-a]", "expected a range whose end is not before its beginning"),
    "escape": (r'root ::= "\q"', "line 1, column 11: unknown escape"),
    "few-digits": (r'root ::= "\u12"', "expected 4 hexadecimal digits"),
    "surrogate": (r'root ::= "\ud800"', "expected a character of Unicode"),
    "beyond-unicode": (r'root ::= "\U00110000"', "expected a character of Unicode"),
    "repeats-fall": ('root ::= "a"{3,2}', "expected repetitions that ascend"),
    "many-repeats": (f'root ::= "a"{{{MAX_REPEATS + 1}}}', f"at least {MAX_REPEATS} times at most"),
    "no-number": ('root ::= "a"{x}', "expected a number"),
    "token": ("root ::= <[1000]>", "tokens, as in <[1000]> or <think>, are not supported"),
    "nested": (f'root ::= {"(" * 5000}"a"{")" * 5000}', f"expected at most {MAX_DEPTH} groups in one another"),
    "rules": ("\n".join(f"r{i} ::= r{i + 1}" for i in range(4000)), f"expected at most {MAX_RULES} rules"),
    "stars": (f'root ::= "a"{"*" * 5000}', f"expected at most {MAX_RULES} rules"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_place(name: str) -> None:
    grammar, problem = WRONG[name]
    with pytest.raises(GbnfError, match=re.escape(problem)):
        lark_of(grammar)
    with pytest.raises(RequestError, match=f"^grammar: expected GBNF: .*{re.escape(problem)}"):
        COMPILER.compile(ConstraintSpec("grammar", grammar, "grammar"))


def test_the_translation_of_a_grammar() -> None:
    """One terminal for each character, and a rule of its own for a group with groups in it."""
    grammar = 'root ::= "ab" [b-d]* ("x" (one | "")+)? # end\none ::= [^é]{2,} .'
    assert lark_of(grammar).splitlines() == [
        "%llguidance {}",
        "start: r0",
        'g0: C3 (r1 | "")+',
        "r0: C0 C1 C2* g0?",
        "r1: C4{2,} C5",
        "C0: /a/",
        "C1: /b/",
        "C2: /[b-d]/",
        "C3: /x/",
        r"C4: /[^\x{e9}]/",
        r"C5: /[\x{0}-\x{10ffff}]/",
    ]


@pytest.mark.parametrize(
    ("repeats", "expected"),
    [
        ("{3}", "{3,3}"),
        ("{0,2000}", "{0,2000}"),
        ("{0,2001}", "{0,}"),
        ("{2000,}", "{2000,}"),
        ("{2000}", "{2000,2000}"),
        ("{5,5}", "{5,5}"),
        ("*", "*"),
    ],
)
def test_repeats_of_one_character(repeats: str, expected: str) -> None:
    assert lark_of(f'root ::= "a"{repeats}') == f"%llguidance {{}}\nstart: r0\nr0: C0{expected}\nC0: /a/\n"


def test_rules_as_many_as_there_may_be() -> None:
    rules = [f"r{i} ::= r{i + 1}" for i in range(MAX_RULES - 2)]
    lark_of("\n".join(["root ::= r0", *rules, f'r{MAX_RULES - 2} ::= "a"']))
    with pytest.raises(GbnfError, match=f"^expected at most {MAX_RULES} rules and groups with groups in them, found"):
        lark_of("\n".join(["root ::= r0 x", *rules, f'r{MAX_RULES - 2} ::= "a"', 'x ::= "b"']))


@given(st.text('ro:=|"[]()*+?{}<!^-\\ x19,#\n', max_size=40))
def test_any_text_is_translated_or_refused(rest: str) -> None:
    problem = ""
    try:
        accepts("root ::= " + rest, "x")
    except (RequestError, ConstraintError) as error:
        problem = str(error)
    assert "\n" not in problem


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "x ::= y"',
        "%llguidance {}\nstart: A\nA: /a/",
        '// root ::= x\nstart: a\na: "a"',
        "nonsense",
        "",
        "::= x",
    ],
)
def test_lark_is_told_from_gbnf(grammar: str) -> None:
    assert not is_gbnf(grammar)
