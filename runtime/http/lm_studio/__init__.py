"""LM Studio's API."""
