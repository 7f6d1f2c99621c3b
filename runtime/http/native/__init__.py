"""ROCmForge's own API."""
