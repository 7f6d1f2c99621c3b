"""Bundles on an emulated 64-bit ARM machine."""
