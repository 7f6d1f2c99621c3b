"""Instruction set families: opcode names, and one spelling for each operation.

Opcode numbers and names come from the PyPI package `tinygrad` (generated there from AMD's machine-readable ISA).
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

from ...artifacts.errors import ToolchainError
from ...artifacts.targets import GENERIC_ARCHES, GPU_ARCHES, generic_arch


@dataclass(frozen=True, eq=False)
class Family:
    """How an instruction set differs from the others.

    Attributes:
        name: "rdna3", "rdna4" or "cdna".
        opcodes: format name to opcode to canonical name.
        architected_ids: the workgroup ids are in trap registers, not in user scalars.
        vgpr_granule: registers a step of the descriptor's count, by wave size.
        zero_high: a 16-bit result clears the register's high half.
    """

    name: str
    wave_sizes: tuple[int, ...]
    architected_ids: bool
    has_acc: bool
    zero_high: bool
    vgpr_granule: dict[int, int]
    opcodes: dict[str, dict[int, str]] = field(repr=False)


# The opcode tables that hold an instruction set.
_FAMILY_OF_ISA = {"cdna3": "cdna", "cdna4": "cdna", "rdna3": "rdna3", "rdna4": "rdna4"}
_FAMILY_OF = {
    row.name: _FAMILY_OF_ISA[row.isa]
    for row in GPU_ARCHES.values()
    if row.isa in _FAMILY_OF_ISA and row.name not in GENERIC_ARCHES
}

_ENUMS = {
    "SOP1": "SOP1Op",
    "SOP2": "SOP2Op",
    "SOPC": "SOPCOp",
    "SOPK": "SOPKOp",
    "SOPP": "SOPPOp",
    "SMEM": "SMEMOp",
    "VOP1": "VOP1Op",
    "VOP2": "VOP2Op",
    "VOPC": "VOPCOp",
    "VOP3": "VOP3Op",
    "VOP3SD": "VOP3SDOp",
    "VOP3P": "VOP3POp",
    "VOPD": "VOPDOp",
    "DS": "DSOp",
    "MUBUF": "MUBUFOp",
    "FLAT": "FLATOp",
    "GLOBAL": "GLOBALOp",
    "SCRATCH": "SCRATCHOp",
}

# Older and newer spellings of what is the same operation.
_SPELLINGS = [
    (r"_e(32|64)$", ""),
    (r"_(min|max|min3|max3|med3|minmax|maxmin)_num_", r"_\1_"),
    (r"^s_(add|sub)_co_([ui]32)$", r"s_\1_\2"),
    (r"^s_add_co_ci_u32$", "s_addc_u32"),
    (r"^s_sub_co_ci_u32$", "s_subb_u32"),
    (r"^s_addk_co_i32$", "s_addk_i32"),
    (r"^v_mad_co_", "v_mad_"),
]
_CDNA_SPELLINGS = [
    (r"^v_(add|sub|subrev)_(u32|i32|u16|i16)$", r"v_\1_nc_\2"),
    (r"^v_addc_co_u32$", "v_add_co_ci_u32"),
    (r"^v_subb_co_u32$", "v_sub_co_ci_u32"),
    (r"^v_subbrev_co_u32$", "v_subrev_co_ci_u32"),
    (r"^v_ffbh_u32$", "v_clz_i32_u32"),
    (r"^v_ffbl_b32$", "v_ctz_i32_b32"),
    (r"^v_ffbh_i32$", "v_cls_i32"),
    (r"^v_cvt_rpi_i32_f32$", "v_cvt_nearest_i32_f32"),
    (r"^v_cvt_flr_i32_f32$", "v_cvt_floor_i32_f32"),
    (r"^v_cvt_pkrtz_", "v_cvt_pk_rtz_"),
    (r"^v_cvt_pknorm_", "v_cvt_pk_norm_"),
    (r"^v_mad_mix", "v_fma_mix"),
    (r"^v_mul_legacy_f32$", "v_mul_dx9_zero_f32"),
    (r"^v_mad_legacy_", "v_mad_"),
    (r"^v_(fma|div_fixup)_legacy_f16$", r"v_\1_f16"),
    (r"^(v_cmpx?)_tru_", r"\1_t_"),
    (r"^v_dot2c_", "v_dot2acc_"),
    (r"^s_ff1_i32_", "s_ctz_i32_"),
    (r"^s_flbit_i32_b32$", "s_clz_i32_u32"),
    (r"^s_flbit_i32_b64$", "s_clz_i32_u64"),
    (r"^s_flbit_i32$", "s_cls_i32"),
    (r"^s_flbit_i32_i64$", "s_cls_i32_i64"),
    (r"^s_(and|or)n1_", r"s_\1_not0_"),
    (r"^s_(and|or)n2_", r"s_\1_not1_"),
    (r"^ds_(write|read)2st64_", r"ds_\g<1>_2addr_stride64_"),
    (r"^ds_(write|read)2_", r"ds_\g<1>_2addr_"),
    (r"^ds_write_", "ds_store_"),
    (r"^ds_read_", "ds_load_"),
    (r"^ds_wrxchg_", "ds_storexchg_"),
    (r"^ds_cmpst_", "ds_cmpstore_"),
    (r"_dwordx2$", "_b64"),
    (r"_dwordx3$", "_b96"),
    (r"_dwordx4$", "_b128"),
    (r"_dwordx8$", "_b256"),
    (r"_dwordx16$", "_b512"),
    (r"_dword$", "_b32"),
    (r"_store_(byte|short)_d16_hi$", r"_store_d16_hi_\1"),
    (r"_load_(ubyte|sbyte|short)_d16_hi$", r"_load_d16_hi_\1"),
    (r"_load_(ubyte|sbyte|short)_d16$", r"_load_d16_\1"),
    (r"_d16(_hi)?_short$", r"_d16\1_b16"),
    (r"_ubyte$", "_u8"),
    (r"_sbyte$", "_i8"),
    (r"_ushort$", "_u16"),
    (r"_sshort$", "_i16"),
    (r"_byte$", "_b8"),
    (r"_short$", "_b16"),
    (r"(_atomic_)(swap|cmpswap|and|or|xor)$", r"\1\2_b32"),
    (r"(_atomic_)(swap|cmpswap|and|or|xor)_x2$", r"\1\2_b64"),
    (r"(_atomic_)(add|sub|inc|dec)$", r"\1\2_u32"),
    (r"(_atomic_)(add|sub|inc|dec)_x2$", r"\1\2_u64"),
    (r"(_atomic_)([su])(min|max)$", r"\1\3_\g<2>32"),
    (r"(_atomic_)([su])(min|max)_x2$", r"\1\3_\g<2>64"),
    (r"_(min|max)_s(32|64)$", r"_\1_i\2"),
]


def canonical(name: str, family: str) -> str:
    """One spelling for an operation: RDNA3's, without the encoding's suffix."""
    name = name.lower()
    for pattern, new in _SPELLINGS + (_CDNA_SPELLINGS if family == "cdna" else []):
        name = re.sub(pattern, new, name)
    return name


def family_name(arch: str) -> str:
    """Family of an exact gfx name.

    Raises:
        ToolchainError: the emulator does not have it; lists what it has.
    """
    if arch not in _FAMILY_OF:
        raise ToolchainError(f"the emulator has no {arch}; it has {', '.join(sorted(_FAMILY_OF))}")
    return _FAMILY_OF[arch]


def lds_bytes(arch: str) -> int:
    """Most LDS of a workgroup."""
    registers = GPU_ARCHES[arch].registers
    assert registers is not None, arch  # those that are emulated are published
    return registers.lds_bytes


def runs_on(code_arch: str, device_arch: str) -> bool:
    """Whether a device takes a code object: of its own name, or the generic one of its family."""
    return code_arch in (device_arch, generic_arch(device_arch))


def _opcodes(family: str) -> dict[str, dict[int, str]]:
    try:
        module = importlib.import_module(f"tinygrad.runtime.autogen.amd.{family}.enum")
    except ImportError:
        raise ToolchainError(
            "the emulator needs the Python package tinygrad (opcode tables): pip install tinygrad==0.14.0"
        ) from None
    tables = {}
    for format_name, enum_name in _ENUMS.items():
        enum: type[IntEnum] | None = getattr(module, enum_name, None) or getattr(module, f"V{enum_name}", None)
        tables[format_name] = {item.value: canonical(item.name, family) for item in enum} if enum else {}
    return tables


@cache
def family(name: str) -> Family:
    """The family by its name, with its opcode tables.

    Raises:
        ToolchainError: tinygrad is not installed.
    """
    cdna = name == "cdna"
    return Family(
        name=name,
        wave_sizes=(64,) if cdna else (32, 64),
        architected_ids=name == "rdna4",
        has_acc=cdna,
        zero_high=cdna,
        vgpr_granule={64: 8} if cdna else {32: 8, 64: 4},
        opcodes=_opcodes(name),
    )
