"""Instructions to operations: which handler, with which operands. This part holds what all formats share."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from .decode import LITERAL, Instruction
from .errors import UnknownInstruction
from .families import Family
from .library import Library
from .structures import Kind, Operand

ROW_ACC, ROW_TEMPORARY = 256, 544
S_NULL, S_M0 = 128, 125
APERTURES = {235: 0x10000, 237: 0x20000}  # high words of SRC_SHARED_BASE and SRC_PRIVATE_BASE
_FLOATS = {240: 0.5, 241: -0.5, 242: 1.0, 243: -1.0, 244: 2.0, 245: -2.0, 246: 4.0, 247: -4.0, 248: 0.15915494309189532}
_FLAGS = {251: Kind.VCCZ, 252: Kind.EXECZ, 253: Kind.SCC}
_WIDE = ("f64", "u64", "i64")
FLOAT_TYPES = ("f16", "f32", "f64")
HALF_TYPES = ("f16", "i16", "u16")


@dataclass
class Emitted:
    """One operation before it becomes a structure."""

    handler: str
    sources: list[Operand]
    dst: int = 0
    dst2: int = 0
    clamp: int = 0
    omod: int = 0
    dst_shift: int = 0
    keep_high: int = 0
    imm: list[int] = field(default_factory=list)
    address: int = 0
    first: int = 0
    target: int | None = None


class Lowering:
    """State while a stretch of code is lowered.

    Args:
        family: of the code.
        library: whose handlers are used; its wave size is the code's.
    """

    def __init__(self, family: Family, library: Library):
        self.family = family
        self.library = library
        self.wave_size = library.wave_size
        self.rdna = family.name != "cdna"
        self.ops: list[Emitted] = []
        self._first = False
        self._address = 0

    def begin(self, address: int) -> None:
        """The next operation is the first of the instruction at this address."""
        self._first, self._address = True, address

    def emit(self, handler: str, sources: list[Operand] | None = None, **values: Any) -> Emitted:
        """Append an operation."""
        op = Emitted(handler, sources or [], address=self._address, first=int(self._first), **values)
        self._first = False
        self.ops.append(op)
        return op

    def types(self, handler: str) -> tuple[str, ...]:
        """Types of a handler: destination, then sources. Empty where there is no such handler."""
        found = self.library.handlers.get(handler)
        return found[1] if found else ()

    def has(self, handler: str) -> bool:
        """Whether a handler exists."""
        return handler in self.library.handlers

    def refuse(self, instruction: Instruction, why: str) -> UnknownInstruction:
        """The error for an instruction that is not covered."""
        return UnknownInstruction(
            f"{self.family.name} instruction {instruction.name} at {instruction.address:#x}: {why}"
        )

    def scalar_index(self, code: int) -> int:
        """Scalar register of a destination's code."""
        if self.rdna:
            return S_NULL if code == 124 else code
        return S_M0 if code == 124 else code

    def constant(self, low: int, high: int = 0) -> Operand:
        """A constant operand."""
        return Operand(kind=Kind.CONSTANT, low=low & 0xFFFFFFFF, high=high & 0xFFFFFFFF, and_mask=0xFFFFFFFF)

    def scalar(self, index: int) -> Operand:
        """A scalar register operand."""
        return Operand(kind=Kind.SCALAR, index=index, and_mask=0xFFFFFFFF)

    def row(self, index: int) -> Operand:
        """A vector register operand."""
        return Operand(kind=Kind.VECTOR, index=index, and_mask=0xFFFFFFFF)

    def source(self, instruction: Instruction, code: int, kind: str) -> Operand:
        """A source operand, without modifiers, by its 9-bit code.

        Args:
            kind: its type in the handler's table; decides how constants are spelt.
        """
        if code >= 256:
            found: Operand | None = self.row(code - 256)
        elif code == LITERAL:
            found = self._literal(instruction, kind)
        elif 128 <= code <= 208:
            found = self._integer(code - 128 if code <= 192 else 192 - code)
        elif code in _FLOATS:
            found = self._float(instruction, _FLOATS[code], kind)
        else:
            found = self._special(code, kind)
        if found is None:
            raise self.refuse(instruction, f"source operand code {code}")
        return found

    def _special(self, code: int, kind: str) -> Operand | None:
        """Scalar registers, and what is read like one."""
        if code == 124 and self.rdna:
            return self.constant(0)
        if code < 128:
            return self.scalar(self.scalar_index(code))
        if code in _FLAGS:
            return Operand(kind=_FLAGS[code], and_mask=0xFFFFFFFF)
        return self.constant(0, APERTURES[code]) if code in APERTURES and kind in _WIDE else None

    def _integer(self, value: int) -> Operand:
        return self.constant(value, value >> 32)

    def _literal(self, instruction: Instruction, kind: str) -> Operand:
        value = instruction.literal
        if value is None:
            raise self.refuse(instruction, "literal without a literal word")
        if kind == "f64":
            return self.constant(0, value)
        if kind == "i64":
            return self.constant(value, -(value >> 31))
        return self.constant(value)

    def _float(self, instruction: Instruction, value: float, kind: str) -> Operand:
        if kind in _WIDE:
            low, high = struct.unpack("<II", struct.pack("<d", value))
            return self.constant(low, high)
        if kind in ("f16", "pk f16"):
            return self.constant(int(struct.unpack("<H", struct.pack("<e", value))[0]))
        if kind in ("i16", "u16"):
            raise self.refuse(instruction, "float constant in a 16-bit integer operand")
        return self.constant(int(struct.unpack("<I", struct.pack("<f", value))[0]))

    def modify(self, operand: Operand, kind: str, absolute: int, negate: int) -> Operand:
        """Apply abs and neg (abs first) to a float operand, in place."""
        if kind in (*FLOAT_TYPES, "mix"):
            sign = 0x8000 if kind == "f16" else 0x80000000
            if absolute:
                operand.and_mask = ~sign & 0xFFFFFFFF
            if negate:
                operand.xor_mask = sign
        return operand

    def permuted(self, instruction: Instruction, source: Operand) -> Operand:
        """Emit what a DPP word asks for; returns the operand to use instead of source 0."""
        if instruction.extra_kind not in ("dpp", "dpp8"):
            return source
        extra = instruction.extra
        if instruction.extra_kind == "dpp":
            imm = [extra["control"], extra["row_mask"], extra["bank_mask"], extra["bound"], extra["fetch"], 0]
        else:
            imm = [-1, 15, 15, 1, extra["fetch"], extra["selectors"]]
        plain = self.row(source.index)
        self.emit("dpp_begin", [plain], dst=ROW_TEMPORARY, imm=imm)
        moved = Operand.from_buffer_copy(source)
        moved.index = ROW_TEMPORARY
        return moved

    def finish_permuted(self, instruction: Instruction) -> None:
        """End what `permuted` began."""
        if instruction.extra_kind in ("dpp", "dpp8"):
            self.emit("dpp_end")
