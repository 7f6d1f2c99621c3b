"""The bundle format: the contract between the compiler and the runtime."""
