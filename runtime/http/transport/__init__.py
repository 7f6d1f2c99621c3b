"""Connections and threads, and who may ask: bytes to requests and back."""
