"""The command `rfc`: a module for some of its commands each."""

import os

# NumPy's linear algebra would start a thread for each processor when it is imported: 0.1 s of processor time on two of
# them, for products that no command makes. Who wants them all the same says so in the environment.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from .main import main

__all__ = ["main"]
