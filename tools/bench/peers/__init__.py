"""Beside llama.cpp and ik_llama.cpp on one machine, in turn: `__main__.py`; docs/peers.md has what came of it."""
