"""Which chat template goes into the bundle, and whether the runtime can use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..artifacts.errors import InputError, RocmforgeError
from .text_file import read_text_file
from .tokenizer import TokenizerArtifact

# Raises a `RocmforgeError` where the runtime cannot use a template: its Jinja sandbox is not the compiler's to import.
TemplateCheck = Callable[[str], None]
MAX_FILE_BYTES = 1 << 20


def choose_template(
    tokenizer: TokenizerArtifact, model: Path, file: Path | None, check: TemplateCheck | None
) -> TokenizerArtifact:
    """Return the tokenizer with the chat template of the file, or else with the model's own.

    Args:
        tokenizer: as the model has it.
        model: the GGUF, for messages.
        file: Jinja source, in UTF-8; None: the model's template.
        check: of whichever is taken.

    Raises:
        InputError: the file cannot be read, or the template not be used.
    """
    if file is not None:
        tokenizer = replace(
            tokenizer, chat_template=read_text_file(file, "chat template", "Jinja source", MAX_FILE_BYTES)
        )
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
