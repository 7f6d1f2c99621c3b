"""Hand-written kernel sources, a folder for each back end."""
