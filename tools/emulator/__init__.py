"""An emulated AMD GPU: runs the machine code of code objects behind HIP's C functions. See README.md."""

from .api import HipEmulator
from .counters import KernelCounters, TrafficCount
from .errors import BadCodeObject, UnknownInstruction
from .faults import TrappedFault

__all__ = ["BadCodeObject", "HipEmulator", "KernelCounters", "TrafficCount", "TrappedFault", "UnknownInstruction"]
