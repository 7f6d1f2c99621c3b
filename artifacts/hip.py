"""What compiler and runtime agree on about AMD GPUs: the ABI of kernels, and which arch may run whose code."""

from __future__ import annotations

from typing import Final

HIP_ABI_VERSION: Final = 1
"""Of kernels/hip: raised with any change to the step, the sampling or the arguments of a kernel."""
