"""What is read of llama.cpp's test of chats: C++ as far as it needs it, and cases."""

from __future__ import annotations

from pathlib import Path

from rocmforge.tools.generate.chat_formats.cpp import Token, tokens_of
from rocmforge.tools.generate.chat_formats.expectations import Case, read_cases
from rocmforge.tools.generate.chat_formats.reading import same_arguments

SOURCE = r"""
static common_chat_tool go{ /* .name = */ "go", "Goes.", R"({"type": "object"})" };
const common_chat_msg said = simple_assist_msg("Hi", "Hm");  // a message
static void test_some(const std::string & path, bool debug) {
    auto tst = peg_tester(path, debug);
    tst.test("a\tb" "c").tools({ go }).expect(message_with_tool_calls("go", "{}")).run();
}
static void test_template_output_peg_parsers(bool debug) {
    for (const char * path : { "x.jinja", "y.jinja" }) {
        test_some(path, debug);
    }
    {
        auto tst = peg_tester("z.jinja", debug);
        const std::string mark = "<t>";
        if (debug) { ignored(mark); }
        tst.test(mark + "{\"a\": \"\u00e9\"}")
            .is_partial(true)
            .expect_tool_calls({ { "go", R"#({"a": 1})#", {} }, { "stay", "{}", "" } })
            .expect_content("C")
            .run();
        tst.test("x").enable_thinking(false).expect(said).run();
    }
}
"""


def test_tokens() -> None:
    found = tokens_of("""a::b R"x()")x" "\\n\\"" // no\n->'c' /* no */ 12""")
    texts = [Token("text", ')"'), Token("text", '\n"')]
    assert found == [Token("name", "a::b"), *texts, Token("sign", "->"), Token("text", "c"), Token("number", "12")]


def test_cases(tmp_path: Path) -> None:
    path = tmp_path / "test-chat.cpp"
    path.write_text(SOURCE)
    first, second, third, fourth = read_cases(path)
    tools = {"tools": [["go", "Goes.", '{"type": "object"}']]}
    assert first == Case("x.jinja", "a\tbc", tools, calls=(("go", "{}"),))
    assert second == Case("y.jinja", "a\tbc", tools, calls=(("go", "{}"),))
    assert third == Case(
        "z.jinja", '<t>{"a": "é"}', {"is_partial": True}, "C", calls=(("go", '{"a": 1}'), ("stay", "{}"))
    )
    assert fourth == Case("z.jinja", "x", {"enable_thinking": False}, "Hi", "Hm")


def test_arguments_that_are_the_same() -> None:
    assert same_arguments('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert same_arguments("", "{}")
    assert same_arguments('{"a":', '{"a": ')
    assert not same_arguments('{"a": 1}', '{"a": 2}')
    assert not same_arguments('{"a":', '{"b":')
