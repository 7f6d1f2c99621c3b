"""An engine in a process of its own: a GPU's fault ends that process, not the server."""
