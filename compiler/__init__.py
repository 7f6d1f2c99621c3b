"""GGUF in, bundle out."""
