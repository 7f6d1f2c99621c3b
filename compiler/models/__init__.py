"""The architectures that can be compiled: a module a family, with its names in GGUF, its tensors and its graph."""
