"""llama.cpp's logits of a small model of each architecture, and how far ours are from them."""
