"""Encoders of images: projector files of GGUF, their graphs, and what they become in a bundle."""
