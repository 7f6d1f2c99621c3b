"""Images by OpenAI's, Anthropic's and Ollama's own clients, against a real server of a small model that sees."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

import rocmforge
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.killed import forked
from rocmforge.tests.support.pictures import png
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, digest_of, refused, rfc, serving
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.vision_models import write_mmproj

MODEL = "seeing"
RED, BLUE = png(48, 36, seed=1), png(48, 36, seed=2)
LARGER = png(240, 150, seed=3)
TEXT = "ab"


@pytest.fixture(scope="module")
def seeing(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    write_architecture(folder / "seeing.gguf", "qwen3vl", num_layers=3, keys={"context_length": 256})
    mmproj = write_mmproj(folder / "mmproj.gguf", "qwen3vl_merger")
    options = "--mmproj", mmproj, "--cache-dir", build_cache.root
    digest_of(forked(folder, "compile", folder / "seeing.gguf", *options, portable=True))
    return folder / "seeing.rfb"


@pytest.fixture(scope="module", params=["--no-worker", "--worker"])
def server(request: pytest.FixtureRequest, seeing: Path) -> Iterator[Server]:
    with serving(seeing, request.param) as started:
        yield started


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


Ask = Callable[[Server, bytes], tuple[str, int]]
"""Sends a text and an image; returns the answer, and tokens of the prompt."""


def by_openai(server: Server, image: bytes) -> tuple[str, int]:
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": url_of(image)}},
        {"type": "text", "text": TEXT},
    ]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS) as client:
        made = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": parts}], temperature=0, max_tokens=12
        )
    assert made.usage is not None
    return str(made.choices[0].message.content), made.usage.prompt_tokens


def by_responses(server: Server, image: bytes) -> tuple[str, int]:
    parts: list[Any] = [
        {"type": "input_image", "image_url": url_of(image), "detail": "auto"},
        {"type": "input_text", "text": TEXT},
    ]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS) as client:
        made = client.responses.create(
            model=MODEL, input=[{"role": "user", "content": parts}], temperature=0, max_output_tokens=12
        )
    assert made.usage is not None
    return made.output_text, made.usage.input_tokens


def by_anthropic(server: Server, image: bytes) -> tuple[str, int]:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image).decode()}
    messages: Any = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": TEXT}]}]
    import anthropic  # noqa: PLC0415 - a second and more, of each process that collects tests

    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS) as client:
        made: Any = client.messages.create(model=MODEL, max_tokens=12, messages=messages, extra_body={"temperature": 0})
        counted = client.messages.count_tokens(model=MODEL, messages=messages).input_tokens
    prompt = made.usage.input_tokens + (made.usage.cache_read_input_tokens or 0)
    assert counted == prompt
    return "".join(block.text for block in made.content), prompt


def by_ollama(server: Server, image: bytes) -> tuple[str, int]:
    with ollama.Client(server.url, timeout=PATIENCE_SECONDS) as client:
        made = client.chat(
            MODEL,
            [{"role": "user", "content": TEXT, "images": [image]}],
            options={"temperature": 0, "num_predict": 12},
        )
    return str(made.message.content), int(made.prompt_eval_count or 0)


ASKS: dict[str, Ask] = {
    "openai": by_openai,
    "responses": by_responses,
    "anthropic": by_anthropic,
    "ollama": by_ollama,
}


@pytest.mark.parametrize("name", ASKS)
def test_an_image_makes_the_answer(server: Server, name: str) -> None:
    """The same image the same answer, by whichever client; another image another one."""
    ask = ASKS[name]
    first, tokens = ask(server, RED)
    assert ask(server, RED) == (first, tokens)
    other, as_many = ask(server, BLUE)
    assert (as_many, other != first) == (tokens, True)
    assert (first, tokens) == by_openai(server, RED)
    assert ask(server, LARGER)[1] > tokens


def test_generation_and_completion_see_too(server: Server) -> None:
    with ollama.Client(server.url, timeout=PATIENCE_SECONDS) as client:
        options = {"temperature": 0, "num_predict": 8}
        made = [client.generate(MODEL, TEXT, images=[image], options=options).response for image in (RED, BLUE, RED)]
    assert made[0] == made[2] != made[1]
    found = []
    for image in (RED, BLUE, RED):
        prompt = {"prompt_string": f"a<__media__>{TEXT}", "multimodal_data": [base64.b64encode(image).decode()]}
        found.append(server.post("/completion", {"prompt": prompt, "n_predict": 8, "temperature": 0}).json()["content"])
    assert found[0] == found[2] != found[1]


def test_two_images_in_a_conversation(server: Server) -> None:
    def ask(*images: bytes) -> str:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url_of(image)}} for image in images]
        turns: Any = [
            {"role": "user", "content": [*parts[:1], {"type": "text", "text": TEXT}]},
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": [{"type": "text", "text": TEXT}, *parts[1:]]},
        ]
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_SECONDS) as client:
            made = client.chat.completions.create(model=MODEL, messages=turns, temperature=0, max_tokens=12)
        return str(made.choices[0].message.content)

    assert ask(RED, BLUE) == ask(RED, BLUE) != ask(BLUE, RED)


def test_what_the_server_says_of_the_model(server: Server) -> None:
    with ollama.Client(server.url, timeout=PATIENCE_SECONDS) as client:
        assert "vision" in (client.show(MODEL).capabilities or [])
    assert server.get("/v1/models").json()["data"][0]["capabilities"]["vision"] is True
    props = server.get("/props").json()
    assert (props["modalities"], props["media_marker"]) == ({"vision": True, "audio": False}, "<__media__>")
    assert server.get("/api/v0/models").json()["data"][0]["type"] == "vlm"
    assert server.get("/api/v1/models").json()["models"][0]["capabilities"]["vision"] is True


def test_images_that_are_refused(server: Server) -> None:
    def refusal(url: str) -> str:
        parts: Any = [{"type": "image_url", "image_url": {"url": url}}]
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.BadRequestError) as caught,
        ):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=1)
        return str(caught.value.body["message"])  # type: ignore[index]

    at = "messages[0].content[0].image_url: "
    assert refusal("https://example.com/x.png") == (
        f"{at}expected a data: URL or base64, found a URL of https: images are not fetched"
    )
    assert refusal(url_of(RED[:200])) == f"{at}the image cannot be decoded: image file is truncated"
    assert refusal(url_of(b"GIF89a")).startswith(f"{at}expected an image in PNG, JPEG, WEBP, GIF or BMP, found 6 bytes")
    assert refusal("data:image/png,abc").startswith(f"{at}expected data:image/...;base64, and the image")
    assert refusal("data:image/png;base64,!!") == f"{at}expected base64, found something else"


def test_the_command_and_the_library_see_too(seeing: Path, tmp_path: Path) -> None:
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    for file, image in zip(files, (RED, BLUE), strict=True):
        file.write_bytes(image)
    params = rocmforge.GenerationParams(max_tokens=8, temperature=0)
    with rocmforge.load(seeing, device="host", threads=1) as model:
        red, blue = files
        first, other = (model.generate(model.with_images(TEXT, [one]), params) for one in (red, blue))
        again = model.generate(model.with_images(TEXT, [RED]), params)
        assert first.text == again.text != other.text
        chats = [
            model.chat([{"role": "user", "content": TEXT, "images": [image]}], params).content
            for image in (files[0], BLUE, RED)
        ]
        assert chats[0] == chats[2] != chats[1]
        with pytest.raises(rocmforge.RequestError, match=r"^images\[0\]: nothing.png: "):
            model.with_images(TEXT, ["nothing.png"])
    run = "run", seeing, TEXT, "-n", 8, "--temperature", 0, "--device", "host"
    texts = [rfc(*run, "--image", file).stdout.rstrip("\n") for file in files]
    assert texts == [first.text, other.text]
    refused(rfc("run", seeing, "--image", files[0]), 2, "--image: expected a PROMPT beside it, found none")
