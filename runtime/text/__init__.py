"""Text to tokens and back: tokenizers, chat templates, reasoning, tools and constraints."""
