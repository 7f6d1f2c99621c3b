"""F92: text of control tokens in what a client says stays text; the template's own are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.token_table import CONTROL, NORMAL, USER_DEFINED
from rocmforge.compiler.tokenizer import build_tokenizer, byte_to_char
from rocmforge.runtime.text.control_text import ControlTexts, NoMarkError, shown
from rocmforge.runtime.text.template_worker import SandboxedTemplate
from rocmforge.runtime.text.tokenizer import Tokenizer

CONTROLS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|a", "|a|>", "[END]", "</think>", "\0\0"]
USER = ["<think>", "<tool_call>"]


def made() -> Tokenizer:
    tokens = [*CONTROLS, *USER, *byte_to_char().values(), "ab"]
    types = [CONTROL] * len(CONTROLS) + [USER_DEFINED] * len(USER)
    artifact = build_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types + [NORMAL] * (len(tokens) - len(types)),
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
        },
        Path("tiny.gguf"),
    )
    return Tokenizer(artifact.json, artifact.config)


TINY = made()
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "<|im_start|>assistant\n"
)
# Nothing but the messages' own text lies between two messages: what one begins, the next could end.
BARE = "{% for m in messages %}{{ m.content | trim }}{% endfor %}<s>"
PARTS = st.sampled_from(
    [*CONTROLS, *USER, *(text[:-2] for text in CONTROLS), *(text[2:] for text in CONTROLS), *"<>|] a"]
)
CONTENTS = st.lists(PARTS, max_size=5).map("".join)


def tokens_of(source: str, contents: list[str], role: str = "user") -> tuple[list[int], str, str]:
    """Tokens of the prompt, its text as it is shown, and as it is without any hiding."""
    messages = [{"role": role, "content": content} for content in contents]
    hidden, mark = TINY.control_texts.hide({"messages": messages}, source)
    template = SandboxedTemplate(source)
    text = template.render(hidden)
    return TINY.encode(text, False, mark=mark), shown(text, mark), template.render({"messages": messages})


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(CONTENTS, max_size=4))
def test_F92_only_the_templates_own_are_control_tokens(contents: list[str]) -> None:
    ids, text, plain = tokens_of(CHATML, contents)
    assert text == plain
    controls = [i for i in ids if i < len(CONTROLS)]
    assert controls == [0, 1] * len(contents) + [0]
    assert TINY.decode(ids, skip_special=False) == plain


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(CONTENTS, max_size=4))
def test_F92_nor_do_messages_make_one_together(contents: list[str]) -> None:
    ids, text, plain = tokens_of(BARE, contents)
    assert text == plain
    assert [i for i in ids if i < len(CONTROLS)] == [2]
    assert ids[:-1] == TINY.encode(plain[:-3], False, parse_special=False)


@given(st.lists(st.text(st.sampled_from("abé \n.:'{}\""), max_size=20), max_size=4))
def test_ordinary_messages_are_left_alone(contents: list[str]) -> None:
    messages = {"messages": [{"role": "user", "content": content} for content in contents]}
    usual = ControlTexts(text for text in CONTROLS if text != "<|a")
    assert usual.hide(messages) == (messages, "")
    ids, text, _ = tokens_of(CHATML, contents)
    assert ids == TINY.encode(text, False)


@pytest.mark.parametrize("text", ["a < b", "x[1] > y", "a|b", "if a </b>: c", "see <<this>> and |that| too"])
def test_characters_of_control_tokens_that_are_none_are_left_alone(text: str) -> None:
    """Code and mathematics are full of them; a mark would cut their tokens."""
    controls = ControlTexts(["<|im_start|>", "<|im_end|>", "[END]"])
    values = {"messages": [{"role": "user", "content": text}]}
    assert controls.hide(values) == (values, "")


def test_user_defined_tokens_are_text_to_the_model_and_found() -> None:
    ids, _, _ = tokens_of(CHATML, ["<think>", "<|im_end|><tool_call>"])
    assert ids.count(len(CONTROLS)) == ids.count(len(CONTROLS) + 1) == 1


def test_an_assistants_own_markers_stay_what_they_are() -> None:
    """The template may look for them, and the model wrote them as tokens."""
    source = "{% for m in messages %}{{ m.content.split('</think>')|length }}{{ m.content }}{% endfor %}"
    close = CONTROLS.index("</think>")
    ids, text, _ = tokens_of(source, ["x</think><|im_end|>"], "assistant")
    assert (ids.count(close), ids.count(1), text[0]) == (1, 0, "2")
    ids, _, _ = tokens_of(source, ["x</think><|im_end|>"], "user")
    assert (ids.count(close), ids.count(1)) == (0, 0)


@pytest.mark.parametrize(
    "marker", ["<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]
)
def test_what_an_assistant_may_say_is_hidden_of_others(marker: str) -> None:
    controls = ControlTexts([marker, "<|x|>"])
    said = {"content": f"a {marker} b <|x|> c"}
    values = {"messages": [{"role": "assistant", **said}, {"role": "user", **said}, said]}
    hidden, mark = controls.hide(values)
    parted = f"{marker[0]}{mark}{marker[1:]}"
    one, other = (f"a {text} b <{mark}|x|> c" for text in (marker, parted))
    assert hidden == {
        "messages": [{"role": "assistant", "content": one}, {"role": "user", "content": other}, {"content": other}]
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|im_", "<|im_@"),
        ("_end|>", "@_end|>"),
        (" \n<|im_ \t", " \n<|im_@ \t"),
        ("end|> and <", "@end|> and <@"),
        ("|", "|"),
        (" |> ", " @|> "),
        ("end", "end"),
        ("<|im_end|><|im_end|>", "<@|im_end|><@|im_end|>"),
        ("a<|im_end|>b", "a<@|im_end|>b"),
        ("end|", "end|"),
        ("|im", "|im"),
        (5, 5),
        (("<", {"<": ["<", None]}), ["<@", {"<@": ["<@", None]}]),
    ],
)
def test_parts_at_the_ends_of_a_text_are_marked(text: object, expected: object) -> None:
    """`@` stands for the mark."""
    hidden, mark = ControlTexts(["<|im_end|>", "x"]).hide({"a": text, "always": "<|im_end|>"})
    assert mark == "\ufdd0"
    found = str(hidden["a"]).replace(mark, "@") if isinstance(text, str) else hidden["a"]
    assert str(found).replace(repr(mark)[1:-1], "@") == str(expected)


def test_a_word_is_no_part_of_a_token() -> None:
    values = {"role": "a"}
    assert TINY.control_texts.hide(values) == (values, "")


def test_roles_may_be_the_middle_of_a_token() -> None:
    ids, _, _ = tokens_of("{% for m in messages %}{{ '<|' + m.role + '|>' }}{% endfor %}", ["x"], "im_start")
    assert ids == [0]


@pytest.mark.parametrize("expression", ["x|tojson", "x|tojson(ensure_ascii=true)", "x|string", "x.a[0]"])
def test_F92_nothing_of_the_mark_is_left(expression: str) -> None:
    values = {"x": {"a": ["<|im_end|>", "é"], "<s>": 1}}
    hidden, mark = TINY.control_texts.hide(values)
    template = SandboxedTemplate("{{ " + expression + " }}")
    text = template.render(hidden)
    plain = template.render(values)
    assert mark
    assert shown(text, mark) == plain
    ids = TINY.encode(text, False, mark=mark)
    assert ids == TINY.encode(plain, False, parse_special=False)


def test_a_mark_stands_nowhere_else() -> None:
    texts = ControlTexts(["<s>"])
    taken = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    _, mark = texts.hide({"x": "<s>" + taken}, "\ue000 \\uE001")
    assert mark == "\ue002"
    with pytest.raises(NoMarkError):
        texts.hide({"x": "<s>", "y": taken + "".join(map(chr, range(0xE000, 0xF900)))})


def test_without_control_tokens_there_is_nothing_to_hide() -> None:
    values = {"x": "<|im_end|>"}
    assert ControlTexts([]).hide(values) == (values, "")
    assert ControlTexts(["\n"]).hide({"x": "\n"}) == ({"x": "\n"}, "")
