"""The tokenizer of a folder: tokenizer.json as it is, and what tokenizer_config.json and others say beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...artifacts.errors import InputError
from ..text_file import read_text_file
from ..tokenizer import MAX_TOKENIZER_JSON_BYTES, TokenizerArtifact, load_tokenizer_json
from .json_file import JsonObject, read_json_object

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = (TOKENIZER, SETTINGS, GENERATION, TEMPLATE)
_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_ID = (1 << 24) - 1


def folder_tokenizer(folder: Path, config: JsonObject, given: Path | None = None) -> TokenizerArtifact:
    """Return the tokenizer of a folder.

    Args:
        config: config.json.
        given: a tokenizer.json to take instead of the folder's.

    Raises:
        InputError: a file is missing or wrong.
    """
    path = given or folder / TOKENIZER
    tokenizer = load_tokenizer_json(path, _metadata(folder, config, path))
    special, generation = tokenizer.config, _optional(folder / GENERATION)
    ends = _ids(generation, "eos_token_id")
    if not generation.has("eos_token_id"):  # what it would follow from
        ends = tuple(i for i in _ids(config, "eos_token_id") if i < special.vocab_size)
    beyond = next((i for i in ends if i >= special.vocab_size), None)
    if beyond is not None:
        raise generation.error("eos_token_id", f"expected ids below {special.vocab_size}, found {beyond}")
    return replace(tokenizer, config=replace(special, eos_token_ids=tuple(sorted({*special.eos_token_ids, *ends}))))


def _metadata(folder: Path, config: JsonObject, tokenizer: Path) -> dict[str, object]:
    """Return what GGUF's keys of the tokenizer would say: ids of special tokens, and the chat template."""
    metadata: dict[str, object] = {}
    settings = _optional(folder / SETTINGS)
    added = _added_tokens(tokenizer)
    for name in ("bos", "eos"):
        text = _token_text(settings, f"{name}_token")
        ids = _ids(config, f"{name}_token_id")
        if text in added:
            metadata[f"tokenizer.ggml.{name}_token_id"] = added[text]
        elif ids:
            metadata[f"tokenizer.ggml.{name}_token_id"] = ids[0]
    template = _template(folder, settings)
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _optional(path: Path) -> JsonObject:
    return read_json_object(path) if path.exists() else JsonObject(path, {})


def _ids(config: JsonObject, key: str) -> tuple[int, ...]:
    """Return the token ids of a key: one, several, or none."""
    value = config.values.get(key)
    items = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(JsonObject(config.path, {key: item}, config.at).integer(key, None, 0, _MAX_ID) for item in items)


def _token_text(settings: JsonObject, key: str) -> str:
    """Return the text of a special token: a string, or an object with its `content`; "" where there is none."""
    if isinstance(settings.values.get(key), dict):
        return settings.part(key).text("content")
    return settings.text(key, "")


def _added_tokens(path: Path) -> dict[str, int]:
    """Return ids by text of the tokens that tokenizer.json adds to its vocabulary."""
    tokens: dict[str, int] = {}
    document = read_json_object(path, MAX_TOKENIZER_JSON_BYTES)
    items = document.values.get("added_tokens")
    for index, item in enumerate(items if isinstance(items, list) else []):
        if isinstance(item, dict):
            one = JsonObject(document.path, item, f"added_tokens[{index}].")
            tokens[one.text("content")] = one.integer("id", None, 0, _MAX_ID)
    return tokens


def _template(folder: Path, settings: JsonObject) -> str | None:
    """Return the chat template: a file of its own, or a string of the settings, or the default one of several."""
    if (folder / TEMPLATE).exists():
        return read_text_file(folder / TEMPLATE, "chat template", "Jinja source", _MAX_TEMPLATE_BYTES)
    value = settings.values.get("chat_template")
    if not isinstance(value, list):
        return settings.text("chat_template") if value is not None else None
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise settings.error(f"chat_template[{index}]", "expected an object with name and template")
        one = JsonObject(settings.path, item, f"chat_template[{index}].")
        if one.text("name") == "default":
            return one.text("template")
    raise InputError(settings.path, "chat_template", "expected one with the name default, found none")
