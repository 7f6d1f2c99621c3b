"""Which chat template goes into the bundle, and whether the runtime can use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..artifacts.errors import InputError, RocmforgeError
from .tokenizer import TokenizerArtifact

# Raises a `RocmforgeError` where the runtime cannot use a template: its Jinja sandbox is not the compiler's to import.
TemplateCheck = Callable[[str], None]
MAX_FILE_BYTES = 1 << 20


def choose_template(
    tokenizer: TokenizerArtifact, model: Path, file: Path | None, check: TemplateCheck | None
) -> TokenizerArtifact:
    """The tokenizer with the chat template of the file, or else with the model's own.

    Args:
        tokenizer: as the model has it.
        model: the GGUF, for messages.
        file: Jinja source, in UTF-8; None: the model's template.
        check: of whichever is taken.

    Raises:
        InputError: the file cannot be read, or the template not be used.
    """
    if file is not None:
        tokenizer = replace(tokenizer, chat_template=_read(file))
    if tokenizer.chat_template is not None and check is not None:
        try:
            check(tokenizer.chat_template)
        except RocmforgeError as error:
            problem = str(error).removeprefix("chat template: ")
            if file is not None:
                raise InputError(file, "chat template", problem) from None
            problem += "; give another with rfc compile --chat-template FILE"
            raise InputError(model, "tokenizer.chat_template", problem) from None
    return tokenizer


def _read(file: Path) -> str:
    try:
        if not file.is_file():
            raise InputError(file, "chat template", "expected a file of Jinja source")
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise InputError(file, "chat template", f"expected at most {MAX_FILE_BYTES} bytes, found {size}")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(file, "chat template", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(file, "chat template", f"expected UTF-8, found {error.reason} at byte {error.start}") from None
