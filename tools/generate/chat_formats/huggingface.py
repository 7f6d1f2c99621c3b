"""Conversations rendered by transformers: run with a Python that has it, apart from ours.

    python huggingface.py < requests.json > renderings.json

Requests are lists of a template's source and the arguments of `render_jinja_template`; of each comes its text, or None
where the template refuses.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Answer what stands on standard input."""
    from transformers.utils.chat_template_utils import render_jinja_template  # type: ignore[import-not-found] # noqa: PLC0415

    def rendered(source: str, arguments: dict[str, Any]) -> str | None:
        messages = arguments.pop("messages")
        try:
            texts, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=True, **arguments)
        except Exception:  # whatever a template raises
            return None
        return str(texts[0])

    json.dump([rendered(source, arguments) for source, arguments in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
