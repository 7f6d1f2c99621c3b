"""Prompts as llama.cpp's API and all APIs of embeddings take them: texts, token ids, and both mixed."""

from __future__ import annotations

from typing import Final

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...engine.picture_prompt import picture_prompt
from ...engine.pictures import PlacedPicture
from ...pictures.read import GivenImage, read_images
from ...text.tokenizer import TooManyTokensError
from .body import kind_of
from .errors import UnsupportedError
from .generation_params import check_token_ids
from .service import Service
from .text_apis import Look

MAX_PROMPTS = 64
MEDIA_MARKER: Final = "<__media__>"
"""llama.cpp's, in the text of a prompt that has images."""


@dataclass(frozen=True, slots=True)
class SeenPrompt:
    """Token ids of a prompt, and the pictures whose rows they are."""

    token_ids: tuple[int, ...]
    pictures: tuple[PlacedPicture, ...] = ()


def read_prompts(
    service: Service,
    value: object,
    look: Look,
    name: str = "prompt",
    most: int = MAX_PROMPTS,
    cut: bool = False,
    parse_special: bool = True,
) -> list[tuple[int, ...]]:
    """Token ids of each prompt; BOS stands before text that begins one.

    Args:
        value: a prompt, which is a text, token ids, both mixed, `{"prompt_string": text}` or `{"content": parts}`; or
            an array of these.
        look: see `Look`.
        name: what names them in the request.
        most: prompts.
        cut: of a prompt that is far too long, as many tokens as the context has do.
        parse_special: whether the text of control tokens stands for them.

    Raises:
        ContextLengthError: one is far too long.
        RequestError: they are no prompts, or more than `most`.
    """
    if not isinstance(value, list) or _is_mixed(value):
        return [_prompt(service, value, look, name, cut, parse_special)]
    if not 1 <= len(value) <= most:
        raise RequestError(name, f"expected 1 to {most} texts, found {len(value)}")
    return [_prompt(service, one, look, name, cut, parse_special) for one in value]


def read_seen_prompts(
    service: Service, value: object, look: Look, name: str = "prompt", parse_special: bool = True
) -> list[SeenPrompt]:
    """As `read_prompts`, with the pictures of each: one may be `{"prompt_string": text, "multimodal_data": images}`, in
    whose text `MEDIA_MARKER` stands for each image, base64.

    Raises:
        ContextLengthError, RequestError: as `read_prompts`; or an image cannot be read.
    """
    several = isinstance(value, list) and not _is_mixed(value)
    values: list[object] = value if several and isinstance(value, list) else [value]
    if not 1 <= len(values) <= MAX_PROMPTS:
        raise RequestError(name, f"expected 1 to {MAX_PROMPTS} texts, found {len(values)}")
    return [_seen_prompt(service, one, look, name, parse_special) for one in values]


def _seen_prompt(service: Service, value: object, look: Look, name: str, parse_special: bool) -> SeenPrompt:
    images = value.get("multimodal_data") if isinstance(value, dict) and service.vision is not None else None
    if not images or service.vision is None or not isinstance(value, dict):
        return SeenPrompt(_prompt(service, value, look, name, False, parse_special))
    at, text = f"{name}.multimodal_data", value.get("prompt_string")
    if not isinstance(images, list) or not isinstance(text, str):
        raise RequestError(name, "expected prompt_string, a text, and multimodal_data, an array of base64")
    if text.count(MEDIA_MARKER) != len(images):
        found = f"found {text.count(MEDIA_MARKER)} in the text and {len(images)}"
        raise RequestError(at, f"expected an image for each {MEDIA_MARKER}, {found}")
    given = [GivenImage(one if isinstance(one, str) else "", f"{at}[{index}]") for index, one in enumerate(images)]
    pieces = read_images(given, service.vision)
    for one in given:
        text = text.replace(MEDIA_MARKER, one.mark, 1)

    def encode(part: str, first: bool) -> tuple[int, ...]:
        return service.cache.encode(part, first, parse_special, service.most_tokens, look)

    try:
        return SeenPrompt(*picture_prompt(text, pieces, service.vision, encode))
    except TooManyTokensError as error:
        raise service.too_long(error.count) from None


def _is_mixed(value: list[object]) -> bool:
    """Whether an array is one prompt: token ids, or these and texts."""
    return any(isinstance(item, int) for item in value)


def _prompt(service: Service, value: object, look: Look, name: str, cut: bool, parse_special: bool) -> tuple[int, ...]:
    if isinstance(value, dict) and "prompt_string" in value:
        if value.get("multimodal_data"):
            raise UnsupportedError(f"{name}.multimodal_data", "the model reads text alone")
        value = value["prompt_string"]
    elif isinstance(value, dict) and "content" in value:
        value = _text_of_parts(value["content"], f"{name}.content")
    if not isinstance(value, str | list):
        raise RequestError(name, f"expected a string, token ids, or an array of these, found {kind_of(value)}")
    try:
        if isinstance(value, str):
            return service.cache.encode(value, True, parse_special, service.most_tokens, look)
        return read_mixed(service, value, name, True, parse_special, service.most_tokens, look)
    except TooManyTokensError as error:
        if cut and len(error.ids) >= service.engine.max_context:
            return tuple(error.ids)
        raise service.too_long(error.count) from None


def _text_of_parts(parts: object, name: str) -> str:
    if not isinstance(parts, list):
        raise RequestError(name, f"expected an array of parts, found {kind_of(parts)}")
    texts = []
    for index, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise UnsupportedError(f"{name}[{index}]", "expected a part of type text: the model reads text alone")
        texts.append(part["text"])
    return "".join(texts)


def read_mixed(
    service: Service,
    values: list[object],
    parameter: str,
    add_special: bool,
    parse_special: bool,
    most: int,
    look: Look,
) -> tuple[int, ...]:
    """Token ids of texts and token ids in a row.

    Args:
        parameter: what names them in the request.
        add_special: whether text that comes first has BOS before it.
        parse_special: whether the text of control tokens stands for them.
        most: tokens of the texts.
        look: see `Look`.

    Raises:
        TooManyTokensError: there are more.
        RequestError: something else is among them, or an id that is none of the model's.
    """
    ids: list[int] = []
    for index, value in enumerate(values):
        if isinstance(value, str):
            try:
                ids += service.tokenizer.encode(value, add_special and index == 0, parse_special, most - len(ids), look)
            except TooManyTokensError as error:
                raise TooManyTokensError(ids + error.ids, len(ids) + error.count) from None
        elif isinstance(value, int) and not isinstance(value, bool):
            ids.append(value)
        else:
            raise RequestError(f"{parameter}[{index}]", f"expected a string or a token id, found {kind_of(value)}")
    return check_token_ids(parameter, ids, service.engine.vocab_size)
