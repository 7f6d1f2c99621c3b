"""llama.cpp's vectors and scores of models that embed or rank, and how far ours are from them."""
