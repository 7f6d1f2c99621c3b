"""Requests to tokens: the loop, its scheduler and what it knows of each sequence."""
