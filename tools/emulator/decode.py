"""Machine code to instructions: bit fields by format, for RDNA3, RDNA4 and CDNA3.

Field positions: AMD's ISA manuals of the three families, chapter "Microcode formats".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import UnknownInstruction
from .families import Family

LITERAL, SDWA, DPP, DPP8, DPP8_FETCH = 255, 249, 250, 233, 234
VCC, NULL, M0, EXEC = 106, 124, 125, 126
_SOP_PREFIXES = {0b101111101: "SOP1", 0b101111110: "SOPC", 0b101111111: "SOPP"}


@dataclass
class Instruction:
    """One instruction.

    Attributes:
        format: "SOP1", "VOP3", ...
        name: canonical, lower case.
        address: byte offset in the image.
        size: bytes, with literal and DPP words.
        fields: bit fields as integers; sources are 9-bit operand codes.
        literal: the 32-bit constant that follows, if any.
        extra: fields of a DPP or SDWA word: `{"kind": "dpp" | "dpp8" | "sdwa", ...}`.
    """

    format: str
    name: str
    address: int
    size: int
    fields: dict[str, int]
    literal: int | None = None
    extra: dict[str, int] = field(default_factory=dict)
    extra_kind: str = ""

    def __str__(self) -> str:
        return self.name


def bits(word: int, high: int, low: int) -> int:
    """Bits high..low of a word, both included."""
    return word >> low & ((1 << (high - low + 1)) - 1)


def signed(value: int, width: int) -> int:
    """A two's complement field as an integer."""
    return value - (1 << width) if value >> (width - 1) else value


def _vop3_fields(word: int) -> dict[str, int]:
    return {
        "vdst": bits(word, 7, 0),
        "sdst": bits(word, 14, 8),
        "abs": bits(word, 10, 8),
        "opsel": bits(word, 14, 11),
        "clamp": bits(word, 15, 15),
        "src0": bits(word, 40, 32),
        "src1": bits(word, 49, 41),
        "src2": bits(word, 58, 50),
        "omod": bits(word, 60, 59),
        "neg": bits(word, 63, 61),
    }


def _vop3p_fields(word: int) -> dict[str, int]:
    return {
        "vdst": bits(word, 7, 0),
        "neg_hi": bits(word, 10, 8),
        "opsel": bits(word, 13, 11),
        "clamp": bits(word, 15, 15),
        "src0": bits(word, 40, 32),
        "src1": bits(word, 49, 41),
        "src2": bits(word, 58, 50),
        "opsel_hi": bits(word, 60, 59) | bits(word, 14, 14) << 2,
        "neg": bits(word, 63, 61),
        # Matrix instructions of CDNA reuse the modifiers' bits.
        "cbsz": bits(word, 10, 8),
        "abid": bits(word, 14, 11),
        "acc_cd": bits(word, 15, 15),
        "acc": bits(word, 60, 59),
        "blgp": bits(word, 63, 61),
    }


class Decoder:
    """Decodes the code of one family.

    Args:
        family: whose opcode tables to use.
        code: the image, as loaded; addresses are offsets in it.
    """

    def __init__(self, family: Family, code: bytes):
        self.family = family
        self.code = code
        self.rdna = family.name != "cdna"

    def decode(self, address: int) -> Instruction:
        """The instruction at an address.

        Raises:
            UnknownInstruction: the word has no meaning in this family.
        """
        word = self._word(address)
        for choose in (self._scalar, self._vector, self._long):
            found = choose(address, word)
            if found is not None:
                return found
        raise self._unknown(address, "format")

    def _word(self, address: int) -> int:
        if address + 4 > len(self.code):
            raise self._unknown(address, "end of code")
        return int(struct.unpack_from("<I", self.code, address)[0])

    def _unknown(self, address: int, what: str) -> UnknownInstruction:
        word = self.code[address : address + 8].hex()
        return UnknownInstruction(f"unknown {self.family.name} instruction at {address:#x} ({what}): bytes {word}")

    def _name(self, format_name: str, opcode: int, address: int) -> str:
        name = self.family.opcodes[format_name].get(opcode)
        if name is None:
            raise self._unknown(address, f"{format_name} opcode {opcode}")
        return name

    def _scalar(self, address: int, word: int) -> Instruction | None:
        if bits(word, 31, 30) != 0b10:
            return None
        prefix = _SOP_PREFIXES.get(bits(word, 31, 23))
        fields = {
            "src0": bits(word, 7, 0),
            "src1": bits(word, 15, 8),
            "sdst": bits(word, 22, 16),
            "simm": bits(word, 15, 0),
        }
        if prefix == "SOP1":
            name = self._name("SOP1", bits(word, 15, 8), address)
            used: tuple[str, ...] = ("src0",)
        elif prefix:
            name = self._name(prefix, bits(word, 22, 16), address)
            used = ("src0", "src1") if prefix == "SOPC" else ()
        elif bits(word, 31, 28) == 0b1011:
            prefix = "SOPK"
            name = self._name("SOPK", bits(word, 27, 23), address)
            used = ()
        else:
            prefix = "SOP2"
            name = self._name("SOP2", bits(word, 29, 23), address)
            used = ("src0", "src1")
        always = name in ("s_fmaak_f32", "s_fmamk_f32", "s_setreg_imm32_b32")
        return self._with_literal(Instruction(prefix, name, address, 4, fields), used, always)

    def _with_literal(self, found: Instruction, used: tuple[str, ...], always: bool = False) -> Instruction:
        if always or any(found.fields[key] == LITERAL for key in used):
            found.literal = self._word(found.address + found.size)
            found.size += 4
        return found

    def _vector(self, address: int, word: int) -> Instruction | None:
        if word >> 31:
            return None
        top = bits(word, 30, 25)
        fields = {"src0": bits(word, 8, 0), "vdst": bits(word, 24, 17), "src1": 256 + bits(word, 16, 9)}
        if top == 0b111111:
            found = Instruction("VOP1", self._name("VOP1", bits(word, 16, 9), address), address, 4, fields)
            del fields["src1"]
        elif top == 0b111110:
            found = Instruction("VOPC", self._name("VOPC", bits(word, 24, 17), address), address, 4, fields)
        else:
            found = Instruction("VOP2", self._name("VOP2", top, address), address, 4, fields)
        return self._with_extra(found)

    def _with_extra(self, found: Instruction) -> Instruction:
        code = found.fields["src0"]
        if not (code == DPP or (code in (DPP8, DPP8_FETCH) and self.rdna) or (code == SDWA and not self.rdna)):
            used = tuple(key for key in ("src0", "src1", "src2") if key in found.fields)
            return self._with_literal(found, used, "fmamk" in found.name or "fmaak" in found.name)
        word = self._word(found.address + found.size)
        found.size += 4
        found.fields["src0"] = 256 + bits(word, 7, 0)
        if code == SDWA:
            found.extra_kind = "sdwa"
            found.extra = {
                "dst_sel": bits(word, 10, 8),
                "dst_unused": bits(word, 12, 11),
                "clamp": bits(word, 13, 13),
                "omod": bits(word, 15, 14),
                "sdst": bits(word, 14, 8) if bits(word, 15, 15) else VCC,
                "sel0": bits(word, 18, 16),
                "sext0": bits(word, 19, 19),
                "neg": bits(word, 20, 20) | bits(word, 28, 28) << 1,
                "abs": bits(word, 21, 21) | bits(word, 29, 29) << 1,
                "sel1": bits(word, 26, 24),
                "sext1": bits(word, 27, 27),
            }
            # With S0 or S1 set the operand is a scalar.
            if bits(word, 23, 23):
                found.fields["src0"] -= 256
            if bits(word, 31, 31):
                found.fields["src1"] -= 256
        elif code == DPP:
            found.extra_kind = "dpp"
            found.extra = {
                "control": bits(word, 16, 8),
                "fetch": bits(word, 18, 18) if self.rdna else 0,
                "bound": bits(word, 19, 19),
                "bank_mask": bits(word, 27, 24),
                "row_mask": bits(word, 31, 28),
            }
            if found.format in ("VOP1", "VOP2", "VOPC"):
                found.extra |= {
                    "neg": bits(word, 20, 20) | bits(word, 22, 22) << 1,
                    "abs": bits(word, 21, 21) | bits(word, 23, 23) << 1,
                }
        else:
            found.extra_kind = "dpp8"
            found.extra = {"selectors": bits(word, 31, 8), "fetch": int(code == DPP8_FETCH)}
        return found

    def _long(self, address: int, word: int) -> Instruction | None:
        wide = word | self._word(address + 4) << 32
        choose = self._long_formats().get(bits(word, 31, 26))
        if choose is None:
            return None
        return choose(address, wide)

    def _long_formats(self) -> dict[int, Callable[[int, int], Instruction]]:
        """Decoder of each 64-bit format, by bits 31 to 26."""
        if not self.rdna:
            return {
                0b110100: self._vop3_or_vop3p,
                0b110110: self._ds,
                0b110000: self._smem,
                0b110111: self._flat,
                0b111000: self._mubuf,
            }
        formats: dict[int, Callable[[int, int], Instruction]] = {
            0b110011: self._vop3p,
            0b110101: self._vop3,
            0b110010: self._vopd,
            0b110110: self._ds,
            0b111101: self._smem,
        }
        if self.family.name == "rdna4":
            return formats | {0b111011: self._vflat}
        return formats | {0b110111: self._flat, 0b111000: self._mubuf}

    def _vop3_or_vop3p(self, address: int, wide: int) -> Instruction:
        return self._vop3p(address, wide) if bits(wide, 31, 23) == 0b110100111 else self._vop3(address, wide)

    def _mubuf(self, address: int, wide: int) -> Instruction:
        """Buffer instructions: only cache control is known, and that has no operands here."""
        name = self._name("MUBUF", bits(wide, 25 if self.rdna else 24, 18), address)
        return Instruction("MUBUF", name, address, 8, {})

    def _vop3(self, address: int, wide: int) -> Instruction:
        opcode = bits(wide, 25, 16)
        format_name = "VOP3SD" if opcode in self.family.opcodes["VOP3SD"] else "VOP3"
        name = self._name(format_name, opcode, address)
        found = Instruction(format_name, name, address, 8, _vop3_fields(wide))
        if format_name == "VOP3SD":
            found.fields["abs"] = found.fields["opsel"] = 0
        return self._with_extra(found)

    def _vop3p(self, address: int, wide: int) -> Instruction:
        name = self._name("VOP3P", bits(wide, 22, 16), address)
        return self._with_extra(Instruction("VOP3P", name, address, 8, _vop3p_fields(wide)))

    def _vopd(self, address: int, wide: int) -> Instruction:
        x = self._name("VOPD", bits(wide, 25, 22), address).replace("v_dual_", "v_")
        y = self._name("VOPD", bits(wide, 21, 17), address).replace("v_dual_", "v_")
        destination = bits(wide, 63, 56)
        fields = {
            "src0": bits(wide, 8, 0),
            "src1": 256 + bits(wide, 16, 9),
            "vdst": destination,
            "src0_y": bits(wide, 40, 32),
            "src1_y": 256 + bits(wide, 48, 41),
            "vdst_y": bits(wide, 55, 49) << 1 | (destination & 1 ^ 1),
        }
        found = Instruction("VOPD", f"{x} :: {y}", address, 8, fields)
        return self._with_literal(found, ("src0", "src0_y"), any(n in x + y for n in ("fmamk", "fmaak")))

    def _ds(self, address: int, wide: int) -> Instruction:
        low = 17 if not self.rdna else 18
        fields = {
            "offset0": bits(wide, 7, 0),
            "offset1": bits(wide, 15, 8),
            "acc": bits(wide, 25, 25) if not self.rdna else 0,
            "addr": bits(wide, 39, 32),
            "data0": bits(wide, 47, 40),
            "data1": bits(wide, 55, 48),
            "vdst": bits(wide, 63, 56),
        }
        return Instruction("DS", self._name("DS", bits(wide, low + 7, low), address), address, 8, fields)

    def _smem(self, address: int, wide: int) -> Instruction:
        rdna4 = self.family.name == "rdna4"
        opcode = bits(wide, 18, 13) if rdna4 else bits(wide, 25, 18)
        fields = {
            "sbase": bits(wide, 5, 0) * 2,
            "sdst": bits(wide, 12, 6),
            "soffset": bits(wide, 63, 57),
            "offset": signed(bits(wide, 55, 32), 24) if rdna4 else signed(bits(wide, 52, 32), 21),
        }
        if not self.rdna:
            # CDNA says by two bits which of the immediate and the scalar offset exist.
            if not bits(wide, 14, 14):
                fields["soffset"] = NULL
            if not bits(wide, 17, 17):
                fields["soffset"] = bits(wide, 38, 32) if not bits(wide, 14, 14) else fields["soffset"]
                fields["offset"] = 0
        return Instruction("SMEM", self._name("SMEM", opcode, address), address, 8, fields)

    def _flat(self, address: int, wide: int) -> Instruction:
        segment = bits(wide, 17, 16) if self.rdna else bits(wide, 15, 14)
        format_name = ("FLAT", "SCRATCH", "GLOBAL", "")[segment]
        if not format_name:
            raise self._unknown(address, "segment")
        unsigned = not self.rdna and format_name == "FLAT"
        fields = {
            "offset": bits(wide, 11, 0) if unsigned else signed(bits(wide, 12, 0), 13),
            "addr": bits(wide, 39, 32),
            "data": bits(wide, 47, 40),
            "saddr": bits(wide, 54, 48),
            "vdst": bits(wide, 63, 56),
            "returns": bits(wide, 14, 14) if self.rdna else bits(wide, 16, 16),
            "sve": bits(wide, 55, 55) if self.rdna else bits(wide, 13, 13),
            "acc": 0 if self.rdna else bits(wide, 55, 55),
        }
        if not self.rdna and fields["saddr"] == 0x7F:
            fields["saddr"] = NULL
        return Instruction(format_name, self._name(format_name, bits(wide, 24, 18), address), address, 8, fields)

    def _vflat(self, address: int, wide: int) -> Instruction:
        wide |= self._word(address + 8) << 64
        format_name = {0xEC: "FLAT", 0xED: "SCRATCH", 0xEE: "GLOBAL"}.get(bits(wide, 31, 24))
        if format_name is None:
            raise self._unknown(address, "segment")
        fields = {
            "saddr": bits(wide, 6, 0),
            "vdst": bits(wide, 39, 32),
            "sve": bits(wide, 49, 49),
            "returns": bits(wide, 52, 52),
            "data": bits(wide, 62, 55),
            "addr": bits(wide, 71, 64),
            "offset": signed(bits(wide, 95, 72), 24),
            "acc": 0,
        }
        return Instruction(format_name, self._name(format_name, bits(wide, 21, 14), address), address, 12, fields)
