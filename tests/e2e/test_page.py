"""The web page at `/` in a real browser, against a real `rfc serve` of SmolLM2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from rocmforge.tests.support.browser import COLOURS, Watched, chromium, luminance, watched
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, wait_until

CHAT = "**/v1/chat/completions"
QUESTION = "What is the capital of France?"
expect.set_options(timeout=1000 * PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def view(browser: Browser, server: Server) -> Iterator[Watched]:
    with watched(browser, server.url) as made:
        made.open()
        yield made


@pytest.fixture
def page(view: Watched) -> Page:
    return view.page


def model_of(server: Server) -> str:
    return str(server.get("/v1/models").json()["data"][0]["id"])


def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] | None = request.post_data_json
    assert body is not None
    return body


def send(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def wait_for_end(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def answers(page: Page) -> list[str]:
    return page.locator(".turn.assistant > .text").all_text_contents()


def endless(route: Route) -> None:
    """Make the answer one that only the context ends."""
    route.continue_(post_data=json.dumps(body_of(route.request) | {"ignore_eos": True, "max_tokens": 4000}))


def chunk(**delta: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def sse(*documents: object) -> str:
    return "".join(f"data: {json.dumps(document)}\n\n" for document in documents)


def fulfil(page: Page, body: str) -> None:
    """Have chats answered by `body`, whatever the model would say."""
    page.route(CHAT, lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def test_loads_without_an_error_and_with_the_model_list(view: Watched, server: Server) -> None:
    ids = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert view.page.locator("#model option").all_text_contents() == ids
    expect(view.page.locator("#live-state")).to_have_text("ready")
    expect(view.page.get_by_label("Message")).to_be_focused()
    assert view.console_errors == []
    assert {"/", "/page/app.js", "/page/style.css", "/v1/models", "/health", "/metrics"} <= set(view.paths())


def test_an_answer_streams(page: Page, server: Server) -> None:
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Max tokens").fill("24")
    send(page, QUESTION)
    expect(page.get_by_role("status")).to_have_text("Answering…")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    wait_for_end(page)
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    answer = server.post("/v1/chat/completions", body | {"model": model_of(server)}).json()
    assert answers(page) == [answer["choices"][0]["message"]["content"]]
    expect(page.get_by_role("status")).to_contain_text(f"{answer['usage']['completion_tokens']} tokens")
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_label("Message")).to_be_focused()
    expect(page.get_by_label("Message")).to_have_value("")


@pytest.mark.parametrize("how", ["button", "Escape", "tab closed"])
def test_stop_ends_the_answer_on_the_server(view: Watched, server: Server, how: str) -> None:
    page = view.page
    cancelled = server.counter("requests_cancelled")
    page.route(CHAT, endless)
    send(page, QUESTION)
    expect(page.locator(".turn.assistant > .text")).not_to_be_empty()
    expect(page.locator("#live-active")).to_have_text("1")
    expect(page.locator("#live-rate")).to_have_text(re.compile(r"^[1-9][\d.,]* tokens/s$"))
    expect(page.locator("#live-cache")).to_have_text(re.compile(r"^[1-9][\d,]* of [\d,]+ pages$"))
    if how == "tab closed":
        page.close()
    elif how == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    wait_until(lambda: server.checks()["requests"] == {"active": 0, "queued": 0}, "no request active")
    assert server.counter("requests_cancelled") == cancelled + 1
    if how == "tab closed":
        return
    expect(page.get_by_role("status")).to_contain_text("Stopped")
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator("#live-active")).to_have_text("0")
    assert answers(page)[0] != ""
    expect(page.get_by_label("Message")).to_be_focused()


def test_settings_and_the_conversation_are_sent(page: Page, server: Server) -> None:
    page.get_by_label("System prompt").fill("Answer in one word.")
    for label, value in [("Temperature", "0.5"), ("Top p", "0.9"), ("Max tokens", "3"), ("Seed", "7")]:
        page.get_by_label(label).fill(value)
    sampling = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "seed": 7}
    messages = [{"role": "system", "content": "Answer in one word."}]
    for question in [QUESTION, "And of Italy?"]:
        messages.append({"role": "user", "content": question})
        with page.expect_request(CHAT) as asked:
            send(page, question)
        assert body_of(asked.value) == {
            "model": model_of(server),
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }
        assert "authorization" not in asked.value.headers
        wait_for_end(page)
        expect(page.get_by_role("status")).to_contain_text("limit of tokens: 3 tokens")
        messages.append({"role": "assistant", "content": answers(page)[-1]})
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0
    for label in ["System prompt", "Temperature", "Top p", "Max tokens", "Seed"]:
        page.get_by_label(label).fill("")
    page.route(CHAT, lambda route: route.abort())
    with page.expect_request(CHAT) as asked:
        send(page, QUESTION)
    assert body_of(asked.value).keys() == {"model", "messages", "stream", "stream_options"}
    assert body_of(asked.value)["messages"] == messages[1:2]
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")


@pytest.mark.parametrize(
    "label, name, value",
    [("Temperature", "temperature", "9"), ("Top p", "top_p", "2"), ("Max tokens", "max_tokens", "0")],
)
def test_a_setting_that_the_server_refuses(page: Page, label: str, name: str, value: str) -> None:
    field = page.get_by_label(label)
    field.fill(value)
    send(page, QUESTION)
    expect(page.get_by_role("alert")).to_contain_text(name)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Message")).to_have_value(QUESTION)
    assert page.locator(".turn").count() == 0
    field.fill("1")
    page.get_by_label("Max tokens").fill("1")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_be_empty()
    expect(page.locator("[aria-invalid]")).to_have_count(0)
    wait_for_end(page)
    assert page.locator(".turn").count() == 2


@pytest.mark.parametrize("label, keys", [("Temperature", "1e"), ("Max tokens", "1.5"), ("Seed", "9007199254740993")])
def test_a_setting_that_is_no_such_number_is_not_sent(view: Watched, label: str, keys: str) -> None:
    field = view.page.get_by_label(label)
    field.press_sequentially(keys)
    send(view.page, QUESTION)
    expect(view.page.get_by_role("alert")).to_contain_text(label)
    expect(field).to_have_attribute("aria-invalid", "true")
    assert "/v1/chat/completions" not in view.paths()
    assert view.console_errors == []


def test_text_is_never_html(page: Page) -> None:
    hostile = "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>&amp;\u2028</div>"
    fulfil(
        page,
        sse(chunk(reasoning_content=hostile), chunk(content=hostile[:9]), chunk(content=hostile[9:]))
        + "data: [DONE]\n\n",
    )
    send(page, hostile)
    wait_for_end(page)
    assert answers(page) == [hostile]
    assert page.locator(".turn.user > .text").all_text_contents() == [hostile]
    assert page.locator("#log img, #log script").count() == 0
    assert page.title() == "ROCmForge"


def test_reasoning_is_folded_and_not_sent_back(page: Page) -> None:
    fulfil(
        page,
        sse(chunk(reasoning_content="Paris, "), chunk(reasoning_content="surely."), chunk(content="Paris."))
        + "data: [DONE]\n\n",
    )
    send(page, QUESTION)
    wait_for_end(page)
    reasoning = page.locator(".turn details")
    expect(reasoning.locator(".text")).to_be_hidden()
    page.get_by_text("Reasoning", exact=True).click()
    expect(reasoning.locator(".text")).to_have_text("Paris, surely.")
    with page.expect_request(CHAT) as asked:
        send(page, "Thanks")
    assert body_of(asked.value)["messages"][1] == {"role": "assistant", "content": "Paris."}


@pytest.mark.parametrize(
    "end, problem",
    [
        (sse({"error": {"message": "the engine gave up", "type": "server_error"}}), "the engine gave up"),
        ("", "The connection ended before the answer did."),
    ],
    ids=["error event", "no end"],
)
def test_an_answer_that_breaks_off(page: Page, end: str, problem: str) -> None:
    fulfil(page, sse(chunk(content="Par")) + end)
    send(page, QUESTION)
    expect(page.get_by_role("alert")).to_have_text(problem)
    wait_for_end(page)
    assert answers(page) == ["Par"]
    expect(page.get_by_role("status")).to_contain_text("broken off")


READ_IN_PIECES = """async ([bytes, size]) => {
  const api = await import("/page/api.js");
  let at = 0;
  const body = new ReadableStream({pull(controller) {
    if (at >= bytes.length) return controller.close();
    controller.enqueue(new Uint8Array(bytes.slice(at, at += size)));
  }});
  window.fetch = async () => new Response(body);
  const found = [];
  for await (const event of api.chat({}, "", null)) found.push(event);
  return found;
}"""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_events_cut_anywhere_are_read_as_sent(page: Page, size: int, newline: str) -> None:
    documents = [{"text": text} for text in ["", "data: x", "é€😀", "a\nb", "\u2028"]]
    lines = [f"data: {json.dumps(document, ensure_ascii=False)}" for document in documents]
    text = (
        ": ping\n\n" + "\n\n: ping\n\nid: 4\n".join(lines) + '\n\ndata:{"text":\ndata:"two lines"}\n\ndata: [DONE]\n\n'
    )
    body = list(text.replace("\n", newline).encode())
    assert page.evaluate(READ_IN_PIECES, [body, size]) == [*documents, {"text": "two lines"}]


# What has the focus, and the outline that shows it.
FOCUSED = """() => {
  const element = document.activeElement;
  return [element.id || element.textContent, getComputedStyle(element).outlineStyle];
}"""


def test_keys_alone_are_enough(view: Watched) -> None:
    page = view.page
    fulfil(page, sse(chunk(content="Paris.")) + "data: [DONE]\n\n")
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    with page.expect_request(CHAT) as asked:
        page.keyboard.press("Enter")
    assert body_of(asked.value)["messages"] == [{"role": "user", "content": "one\ntwo"}]
    wait_for_end(page)
    page.keyboard.type("three")
    with page.expect_request(CHAT):
        page.keyboard.press("Control+Enter")
    wait_for_end(page)
    page.keyboard.press("Enter")  # nothing to send
    assert len(answers(page)) == 2

    page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); }")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        assert focused[1] != "none", f"{focused[0]} does not show its focus"
        reached.append(focused[0])
        if focused[0] == "key":
            break
    assert reached == [
        *["Skip to the message box", "model", "clear", "log", "message", "send"],
        *["system", "temperature", "top_p", "max_tokens", "seed", "key"],
    ]


def test_everything_has_a_name_in_the_accessibility_tree(page: Page) -> None:
    fulfil(page, sse(chunk(reasoning_content="Hm."), chunk(content="Paris.")) + "data: [DONE]\n\n")
    send(page, QUESTION)
    wait_for_end(page)
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, list[str]] = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node["ignored"] and role in NAMED_ROLES:
            named.setdefault(role, []).append(node["name"]["value"].strip())
    assert set(named) == NAMED_ROLES
    assert all(name for names in named.values() for name in names), named
    assert sorted(named["textbox"]) == ["API key", "Message", "System prompt"]
    assert sorted(named["spinbutton"]) == ["Max tokens", "Seed", "Temperature", "Top p"]
    assert sorted(named["button"]) == ["New chat", "Send", "Stop"]


NAMED_ROLES = {
    *[
        "RootWebArea",
        "link",
        "combobox",
        "button",
        "textbox",
        "spinbutton",
        "log",
        "meter",
        "image",
        "region",
        "heading",
    ],
    "DisclosureTriangle",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(browser: Browser, server: Server, scheme: str) -> None:
    with watched(browser, server.url, color_scheme=scheme) as view:
        view.open()
        page = view.page
        fulfil(page, sse(chunk(reasoning_content="Hm."), chunk(content="Par")))
        send(page, QUESTION)
        expect(page.get_by_role("alert")).not_to_be_empty()
        page.locator("summary").click()
        found = page.evaluate(COLOURS)
    assert len(found) > 30
    assert luminance("rgb(0, 0, 0)") == 0
    for least, what, colour, back in found:
        darker, lighter = sorted([luminance(colour), luminance(back)])
        assert (lighter + 0.05) / (darker + 0.05) >= least, (what, colour, back)


def test_fits_a_screen_of_320_pixels(browser: Browser, server: Server) -> None:
    with watched(browser, server.url, viewport={"width": 320, "height": 640}) as view:
        view.open()
        page = view.page
        fulfil(page, sse(chunk(content="W" * 200 + "\n" + " ".join(["word"] * 200))) + "data: [DONE]\n\n")
        send(page, "M" * 100)
        wait_for_end(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 320
        for control in page.locator("input, textarea, select, button").all():
            box = control.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 320
            assert box["height"] >= 24  # WCAG 2.2's least size of a target


def test_the_live_view_asks_only_while_it_is_seen(browser: Browser, server: Server) -> None:
    with watched(browser, server.url) as view:
        page = view.page
        page.clock.install()
        view.open()

        def look() -> int:
            """Let five seconds pass, in steps so that answers can come in between; returns the scrapes."""
            before = view.paths().count("/metrics")
            for _ in range(5):
                page.clock.run_for(1000)
                page.wait_for_timeout(200)
            return view.paths().count("/metrics") - before

        expect(page.locator("#live-state")).to_have_text("ready")
        assert look() > 0
        page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        look()  # one may be under way
        assert look() == 0
        page.evaluate("delete document.hidden")
        assert look() > 0


def test_a_server_that_goes_and_comes_back(page: Page) -> None:
    page.route("**/health", lambda route: route.abort())
    expect(page.locator("#live-state")).to_have_text("The server cannot be reached.")
    page.unroute("**/health")
    with page.expect_request("**/v1/models"):
        expect(page.locator("#live-state")).to_have_text("ready")


def test_the_api_key_is_sent_and_kept_in_this_tab_alone(page: Page) -> None:
    field = page.get_by_label("API key")
    with page.expect_request("**/v1/models") as asked:
        field.fill("sk-test")
        field.press("Enter")
    assert asked.value.headers["authorization"] == "Bearer sk-test"
    fulfil(page, sse(chunk(content="Paris.")) + "data: [DONE]\n\n")
    with page.expect_request(CHAT) as asked:
        send(page, QUESTION)
    assert asked.value.headers["authorization"] == "Bearer sk-test"
    page.reload()
    expect(field).to_have_value("sk-test")
    assert field.get_attribute("type") == "password"
    assert page.evaluate("localStorage.length") == 0
    assert page.context.cookies() == []
