"""Weights rounded to the types of GGUF, for `--quantize`."""
