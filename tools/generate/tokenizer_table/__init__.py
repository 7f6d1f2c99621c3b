"""Our tokenizers beside llama.cpp's: `python -m rocmforge.tools.generate.tokenizer_table --help`."""
