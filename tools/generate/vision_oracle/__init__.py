"""Rows of pictures against llama.cpp's, of the same projector file and the same pixels."""
