"""Facts about a served model, for every API that lists models."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .service import ServedModel

DIGEST_HEX = 64


def architecture(model: ServedModel) -> str:
    """GGUF name of the architecture, as `llama`; "unknown" where the file does not say."""
    return _text(model, "general.architecture") or "unknown"


def publisher(model: ServedModel) -> str:
    """Who made the model, as far as the file says."""
    return _text(model, "general.organization") or _text(model, "general.author") or "unknown"


def display_name(model: ServedModel) -> str:
    """Name for people."""
    return _text(model, "general.name") or model.name


def hidden_size(model: ServedModel) -> int | None:
    """Length of an embedding; None where the file does not say."""
    return _count(model, "embedding_length")


def num_layers(model: ServedModel) -> int | None:
    """Transformer blocks; None where the file does not say."""
    return _count(model, "block_count")


def trained_context(model: ServedModel) -> int:
    """Tokens of context that the model was trained for; those that it was compiled for where the file does not say."""
    return _count(model, "context_length") or model.context_length


def parameters_text(model: ServedModel) -> str:
    """Number of weights for people, as Ollama rounds it: `134.52M`, `8.0B`, `7B`; "" where it is not known."""
    count = model.parameters
    if not count:
        return _text(model, "general.size_label")
    if count >= 10**9:
        return _rounded(count / 1e9, 1, "B")
    if count >= 10**6:
        return _rounded(count / 1e6, 2, "M")
    return _rounded(count / 1e3, 0, "K") if count >= 1000 else str(count)


def bits_per_weight(model: ServedModel) -> float | None:
    """Of the whole bundle, tokenizer and code included, as its size is what there is; None where it is not known."""
    return round(8 * model.size_bytes / model.parameters, 2) if model.parameters else None


def digest(model: ServedModel) -> str:
    """64 hex digits of the bundle; zeros where it has no digest."""
    found = re.search(rf"[0-9a-f]{{{DIGEST_HEX}}}", model.fingerprint)
    return found[0] if found else "0" * DIGEST_HEX


def modified_at(model: ServedModel) -> str:
    """When the bundle was made, in RFC 3339."""
    return rfc3339(model.created)


def rfc3339(seconds: float) -> str:
    """Unix seconds as a date in UTC, to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _rounded(number: float, digits: int, unit: str) -> str:
    return f"{number:.0f}{unit}" if number.is_integer() else f"{number:.{digits}f}{unit}"


def _text(model: ServedModel, key: str) -> str:
    value = model.metadata.get(key)
    return value if isinstance(value, str) else ""


def _count(model: ServedModel, key: str) -> int | None:
    """A number that GGUF keeps under the architecture's name."""
    value = model.metadata.get(f"{architecture(model)}.{key}")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
