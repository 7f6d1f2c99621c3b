"""Lowering of global, flat, scratch and LDS instructions."""

from __future__ import annotations

import re

from .decode import NULL, Instruction
from .lower import ROW_ACC, Lowering
from .structures import Operand

SIGNED, D16, HIGH, RETURN = 1, 2, 4, 8
_BYTES = {"u8": 1, "i8": 1, "b8": 1, "u16": 2, "i16": 2, "b16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16}
# Numbers of native/memory.h.
_ATOMICS = {
    "swap": 0,
    "storexchg": 0,
    "cmpswap": 1,
    "cmpstore": 1,
    "add": 2,
    "sub": 3,
    "min_i": 4,
    "min_u": 5,
    "max_i": 6,
    "max_u": 7,
    "and": 8,
    "or": 9,
    "xor": 10,
    "inc": 11,
    "dec": 12,
    "add_f": 13,
    "min_f": 14,
    "max_f": 15,
    "pk_add_f16": 16,
    "pk_add_bf16": 17,
    "csub": 18,
    "sub_clamp": 18,
    "cond_sub": 19,
    "rsub": 20,
    "mskor": 21,
}
_CACHE_CONTROL = (
    "global_inv",
    "global_wb",
    "global_wbinv",
    "buffer_gl0_inv",
    "buffer_gl1_inv",
    "buffer_inv",
    "buffer_wbl2",
)


def _atomic(name: str) -> tuple[int, int] | None:
    """Operation number and bytes of an atomic's name without its prefix, e.g. "add_u32" or "min_f64"."""
    if name in ("pk_add_f16", "pk_add_bf16"):
        return _ATOMICS[name], 4
    match = re.fullmatch(r"(\w+?)_([uifb])(32|64)", name)
    if not match:
        return None
    operation, kind, width = match.groups()
    key = f"{operation}_{kind}" if f"{operation}_{kind}" in _ATOMICS else operation
    return (_ATOMICS[key], int(width) // 8) if key in _ATOMICS else None


def _access(name: str) -> tuple[str, int, int] | None:
    """ "load" or "store", bytes and flags of e.g. "load_d16_hi_u8"."""
    match = re.fullmatch(r"(load|store)_(d16_)?(hi_)?([uib]\d+)(_d16)?(_hi)?", name)
    if not match or match.group(4) not in _BYTES:
        return None
    flags = SIGNED if match.group(4).startswith("i") else 0
    flags |= D16 if match.group(2) or match.group(5) else 0
    flags |= HIGH if match.group(3) or match.group(6) else 0
    return match.group(1), _BYTES[match.group(4)], flags


def lower_buffer(lowering: Lowering, instruction: Instruction) -> None:
    """Lower MUBUF: cache control only, which changes nothing here.

    Raises:
        UnknownInstruction: any other.
    """
    if instruction.name not in _CACHE_CONTROL:
        raise lowering.refuse(instruction, "buffer instructions are not emulated")


def lower_flat(lowering: Lowering, instruction: Instruction) -> None:
    """Lower FLAT, GLOBAL and SCRATCH.

    Raises:
        UnknownInstruction: no handler.
    """
    name, fields = instruction.name, instruction.fields
    if name in _CACHE_CONTROL:
        return
    segment = instruction.format.lower()
    rest = name.removeprefix(f"{segment}_")
    acc = ROW_ACC if fields["acc"] else 0
    sources = [*_address(lowering, instruction, segment), lowering.row(fields["data"] + acc)]
    match = re.fullmatch(r"load_lds_(\w+)", rest)
    if match and segment == "global" and match.group(1) in _BYTES:
        kind = match.group(1)
        lowering.emit("global_load_lds", sources, imm=[_BYTES[kind], int(kind.startswith("i")), fields["offset"]])
        return
    if rest.startswith("atomic_"):
        atomic = _atomic(rest.removeprefix("atomic_"))
        if atomic is None:
            raise lowering.refuse(instruction, "the emulator has no such atomic")
        flags = RETURN if fields["returns"] else 0
        imm = [atomic[1], flags, fields["offset"], atomic[0]]
        lowering.emit(f"{segment}_atomic", sources, dst=fields["vdst"] + acc, imm=imm)
        return
    access = _access(rest)
    if access is None:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    what, size, flags = access
    lowering.emit(f"{segment}_{what}", sources, dst=fields["vdst"] + acc, imm=[size, flags, fields["offset"]])


def _address(lowering: Lowering, instruction: Instruction, segment: str) -> list[Operand]:
    fields = instruction.fields
    vector, none = lowering.row(fields["addr"]), Operand()
    scalar = none if fields["saddr"] == NULL else lowering.scalar(lowering.scalar_index(fields["saddr"]))
    if segment == "scratch":
        return [vector if fields["sve"] else none, scalar]
    if segment == "flat" and lowering.family.name != "rdna4":
        return [vector, none]
    return [vector, scalar]


def lower_lds(lowering: Lowering, instruction: Instruction) -> None:
    """Lower DS.

    Raises:
        UnknownInstruction: no handler.
    """
    name, fields = instruction.name, instruction.fields
    rest = name.removeprefix("ds_")
    if rest == "nop":
        return
    offset = fields["offset0"] | fields["offset1"] << 8
    acc = ROW_ACC if fields["acc"] else 0
    address = lowering.row(fields["addr"])
    data = [lowering.row(fields["data0"] + acc), lowering.row(fields["data1"] + acc)]
    destination = fields["vdst"] + acc
    if rest == "swizzle_b32":
        lowering.emit("ds_swizzle_b32", [address], dst=destination, imm=[0, 0, offset])
    elif rest in ("bpermute_b32", "permute_b32", "bpermute_fi_b32"):
        handler = "ds_permute_b32" if rest == "permute_b32" else "ds_bpermute_b32"
        lowering.emit(handler, [address, data[0]], dst=destination, imm=[4, 0, offset, int("_fi_" in rest)])
    elif "_2addr_" in rest:
        match = re.fullmatch(r"(load|store)_2addr_(stride64_)?b(32|64)", rest)
        if not match:
            raise lowering.refuse(instruction, "the emulator has no such operation")
        size = int(match.group(3)) // 8
        step = size * (64 if match.group(2) else 1)
        imm = [size, 0, fields["offset0"] * step, 0, fields["offset1"] * step]
        lowering.emit(f"ds_{match.group(1)}2", [address, *data], dst=destination, imm=imm)
    elif (access := _access(rest)) is not None:
        what, size, flags = access
        lowering.emit(f"ds_{what}", [address, data[0]], dst=destination, imm=[size, flags, offset])
    else:
        _lower_lds_atomic(lowering, instruction, rest, [address, *data], destination, offset)


def _lower_lds_atomic(
    lowering: Lowering, instruction: Instruction, rest: str, sources: list[Operand], destination: int, offset: int
) -> None:
    returns = "_rtn_" in rest
    atomic = _atomic(rest.replace("_rtn", ""))
    if atomic is None:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    if "cmpstore" in rest and not lowering.rdna:
        # CDNA's ds_cmpst takes the value compared with first.
        sources[1], sources[2] = sources[2], sources[1]
    imm = [atomic[1], RETURN if returns else 0, offset, atomic[0]]
    lowering.emit("ds_atomic", sources, dst=destination, imm=imm)
