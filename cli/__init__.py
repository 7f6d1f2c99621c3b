"""The command `rfc`: a module for some of its commands each."""

from .main import main

__all__ = ["main"]
