"""The operations of the graph, a module each: what it means in NumPy, and its launches on the host and on GPUs."""
