"""ROCmForge: compile a GGUF model into a bundle, serve the bundle."""

__version__ = "0.1.0"
