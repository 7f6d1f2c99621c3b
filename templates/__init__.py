"""The template of all kernels' sources."""
