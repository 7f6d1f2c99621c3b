"""AMD GPUs, through HIP."""
