"""The library: what `rocmforge.load` and `rocmforge.compile` give."""
