"""Lowering of the vector ALU: VOP1, VOP2, VOPC, VOP3, VOP3SD, VOP3P and VOPD."""

from __future__ import annotations

import re

from .decode import EXEC, VCC, Instruction
from .lower import FLOAT_TYPES, HALF_TYPES, ROW_ACC, ROW_TEMPORARY, Lowering
from .structures import Kind, Operand
from .vector_operands import codes_of, destination_shift, is_short, operand_of, sources_of

# Operation with an accumulator: handler, and the order of sources 0, 1, destination and literal.
_ACCUMULATE = {
    "v_fmac_f32": ("v_fma_f32", "01d"),
    "v_fmac_f64": ("v_fma_f64", "01d"),
    "v_fmac_f16": ("v_fma_f16", "01d"),
    "v_fmac_dx9_zero_f32": ("v_fma_dx9_zero_f32", "01d"),
    "v_fmamk_f32": ("v_fma_f32", "0k1"),
    "v_fmaak_f32": ("v_fma_f32", "01k"),
    "v_fmamk_f16": ("v_fma_f16", "0k1"),
    "v_fmaak_f16": ("v_fma_f16", "01k"),
    "v_pk_fmac_f16": ("v_pk_fma_f16", "01d"),
    "v_dot2acc_f32_f16": ("v_dot2_f32_f16", "01d"),
    "v_dot2acc_f32_bf16": ("v_dot2_f32_bf16", "01d"),
    "v_dot4c_i32_i8": ("v_dot4_i32_i8", "01d"),
    "v_dot8c_i32_i4": ("v_dot8_i32_i4", "01d"),
    "v_dot2acc_i32_i16": ("v_dot2_i32_i16", "01d"),
}
# Integer dot products: handler, signed inputs (bit 0: a, bit 1: b), signed result. None: by the neg bits.
_DOTS: dict[str, tuple[str, int | None, int]] = {
    "v_dot4_i32_iu8": ("v_dot4_i32_iu8", None, 1),
    "v_dot8_i32_iu4": ("v_dot8_i32_iu4", None, 1),
    "v_dot4_u32_u8": ("v_dot4_u32_u8", 0, 0),
    "v_dot8_u32_u4": ("v_dot8_u32_u4", 0, 0),
    "v_dot4_i32_i8": ("v_dot4_i32_iu8", 3, 1),
    "v_dot8_i32_i4": ("v_dot8_i32_iu4", 3, 1),
    "v_dot2_i32_i16": ("v_dot2_i32_i16", 3, 1),
    "v_dot2_u32_u16": ("v_dot2_u32_u16", 0, 0),
}
_CARRY_VCC = (
    "v_add_co_ci_u32",
    "v_sub_co_ci_u32",
    "v_subrev_co_ci_u32",
    "v_add_co_u32",
    "v_sub_co_u32",
    "v_subrev_co_u32",
)
_ALWAYS_HIGH = ("v_fma_mixhi_f16",)


def lower_vector(lowering: Lowering, instruction: Instruction) -> None:
    """Lower one vector instruction, with its DPP or SDWA word.

    Raises:
        UnknownInstruction: no handler, or a modifier that the handler does not have.
    """
    name = instruction.name
    if name in ("v_nop", "v_pipeflush"):
        return
    if instruction.format == "VOPD":
        _lower_dual(lowering, instruction)
    elif name.startswith(("v_readlane", "v_readfirstlane", "v_writelane", "v_permlane")):
        _lower_lanes(lowering, instruction)
    elif name.startswith("v_cmp"):
        _lower_compare(lowering, instruction)
    elif name in ("v_accvgpr_read", "v_accvgpr_write", "v_accvgpr_mov_b32"):
        _lower_accumulators(lowering, instruction)
    elif name.startswith("v_swap"):
        _lower_swap(lowering, instruction)
    elif instruction.extra_kind == "sdwa":
        _lower_sdwa(lowering, instruction)
    else:
        _lower_plain(lowering, instruction)


def _lower_plain(lowering: Lowering, instruction: Instruction) -> None:
    name = instruction.name
    if name in _DOTS or (name in _ACCUMULATE and _ACCUMULATE[name][0] in _DOTS):
        _lower_dot(lowering, instruction)
        return
    if name.startswith("v_fma_mix"):
        _lower_mixed(lowering, instruction)
        return
    if name in ("v_pk_fma_f32", "v_pk_mul_f32", "v_pk_add_f32", "v_pk_mov_b32"):
        _lower_pairs(lowering, instruction)
        return
    if name.startswith("v_bitop3"):
        _lower_bitop3(lowering, instruction)
        return
    handler, order = _ACCUMULATE.get(name, (name, ""))
    types = lowering.types(handler)
    if not types:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    if handler.startswith("v_s_"):
        kind = types[1]
        operand = operand_of(lowering, instruction, instruction.fields["src0"], kind, 0)
        lowering.emit(handler, [operand], dst=lowering.scalar_index(instruction.fields["vdst"]))
        return
    packed = types[0] == "pk"
    sources = sources_of(lowering, instruction, types, order, packed)
    sources[0] = lowering.permuted(instruction, sources[0])
    _emit_result(lowering, instruction, handler, types[0], sources)
    lowering.finish_permuted(instruction)


def _emit_result(lowering: Lowering, instruction: Instruction, handler: str, kind: str, sources: list[Operand]) -> None:
    fields = instruction.fields
    clamp = fields.get("clamp", 0) or instruction.extra.get("clamp", 0)
    omod = fields.get("omod", 0) or instruction.extra.get("omod", 0)
    packed_float = kind == "pk" and handler.endswith("f16")
    if clamp and kind not in FLOAT_TYPES and not packed_float:
        if not lowering.has(f"{handler}_clamp"):
            raise lowering.refuse(instruction, "clamp")
        handler += "_clamp"
    if omod and kind not in FLOAT_TYPES:
        raise lowering.refuse(instruction, "output modifier")
    row, shift, keep = fields["vdst"], 0, 0
    if kind in HALF_TYPES:
        shift = destination_shift(instruction) if lowering.rdna or not is_short(instruction) else 0
        row = row & 127 if lowering.rdna and is_short(instruction) else row
        keep = int(not lowering.family.zero_high)
    dst2 = 0
    if handler in _CARRY_VCC:
        dst2 = VCC if is_short(instruction) else lowering.scalar_index(fields["sdst"])
    elif instruction.format == "VOP3SD":
        dst2 = lowering.scalar_index(fields["sdst"])
    lowering.emit(handler, sources, dst=row, dst2=dst2, clamp=clamp, omod=omod, dst_shift=shift, keep_high=keep)


def _lower_compare(lowering: Lowering, instruction: Instruction) -> None:
    name, fields = instruction.name, instruction.fields
    exec_too = name.startswith("v_cmpx_")
    handler = name.replace("v_cmpx_", "v_cmp_")
    types = lowering.types(handler)
    if not types:
        raise lowering.refuse(instruction, "the emulator has no such compare")
    destination = VCC
    if instruction.format == "VOP3":
        destination = lowering.scalar_index(fields["vdst"])
    elif instruction.extra_kind == "sdwa":
        destination = instruction.extra["sdst"]
    if exec_too and lowering.rdna:
        destination = EXEC
    codes = codes_of(instruction)
    sources = [operand_of(lowering, instruction, codes[i], types[1 + i], i) for i in range(2)]
    if instruction.extra_kind == "sdwa":
        sources = [_cut(lowering, instruction, s, i, types[1 + i]) for i, s in enumerate(sources)]
    sources[0] = lowering.permuted(instruction, sources[0])
    if instruction.extra_kind in ("dpp", "dpp8") and exec_too:
        raise lowering.refuse(instruction, "v_cmpx with DPP")
    lowering.emit(handler, sources, dst=destination, imm=[int(exec_too), int(exec_too and not lowering.rdna)])
    lowering.finish_permuted(instruction)


def _lower_dot(lowering: Lowering, instruction: Instruction) -> None:
    fields = instruction.fields
    name, order = _ACCUMULATE.get(instruction.name, (instruction.name, "012"))
    handler, signs, is_signed = _DOTS[name]
    types = lowering.types(handler)
    sources = []
    for index, where in enumerate(order):
        if where == "d":
            sources.append(lowering.row(fields["vdst"]))
            continue
        operand = lowering.source(instruction, codes_of(instruction)[index], "u32")
        operand.shift_high = 16
        if types[1 + index] == "pk" and instruction.format == "VOP3P":
            operand.shift = 16 * (fields["opsel"] >> index & 1)
            operand.shift_high = 16 * (fields["opsel_hi"] >> index & 1)
        sources.append(operand)
    signs = fields["neg"] & 3 if signs is None else signs
    sources[0] = lowering.permuted(instruction, sources[0])
    lowering.emit(handler, sources, dst=fields["vdst"], clamp=fields.get("clamp", 0), imm=[signs, is_signed])
    lowering.finish_permuted(instruction)


def _lower_mixed(lowering: Lowering, instruction: Instruction) -> None:
    fields = instruction.fields
    sources, halves = [], 0
    for index, code in enumerate(codes_of(instruction)):
        half = fields["opsel_hi"] >> index & 1
        operand = lowering.source(instruction, code, "f16" if half else "f32")
        operand.shift = 16 if half and fields["opsel"] >> index & 1 else 0
        halves |= half << index
        # neg_hi holds abs here.
        sources.append(lowering.modify(operand, "mix", fields["neg_hi"] >> index & 1, fields["neg"] >> index & 1))
    to_half = instruction.name != "v_fma_mix_f32"
    lowering.emit(
        "v_fma_mix_f16" if to_half else "v_fma_mix_f32",
        sources,
        dst=fields["vdst"],
        clamp=fields["clamp"],
        dst_shift=16 if instruction.name in _ALWAYS_HIGH else 0,
        keep_high=1,
        imm=[halves],
    )


def _lower_pairs(lowering: Lowering, instruction: Instruction) -> None:
    fields = instruction.fields
    count = len(lowering.types(instruction.name)) - 1
    sources = []
    for index, code in enumerate(codes_of(instruction)[:count]):
        operand = lowering.source(instruction, code, "f32")
        if operand.kind in (Kind.VECTOR, Kind.SCALAR):
            operand.shift = fields["opsel"] >> index & 1
            operand.shift_high = fields["opsel_hi"] >> index & 1
            if instruction.name == "v_pk_mov_b32":
                # The low result is source 0's word op_sel[0], the high one source 1's word op_sel[1].
                operand.shift_high = operand.shift
        sources.append(operand)
    imm = [0 if instruction.name == "v_pk_mov_b32" else fields["neg"] | fields["neg_hi"] << 3]
    target = fields["vdst"]
    # Both halves are computed before either is written, but a source pair may be read after the first write otherwise.
    lowering.emit(instruction.name, sources, dst=target, clamp=fields["clamp"], imm=imm)


def _lower_bitop3(lowering: Lowering, instruction: Instruction) -> None:
    fields = instruction.fields
    if instruction.name != "v_bitop3_b32":
        raise lowering.refuse(instruction, "the emulator has no such operation")
    table = fields["omod"] << 6 | fields["abs"] << 3 | fields["neg"]
    sources = [lowering.source(instruction, code, "u32") for code in codes_of(instruction)]
    lowering.emit("v_bitop3_b32", sources, dst=fields["vdst"], imm=[table])


def _lower_lanes(lowering: Lowering, instruction: Instruction) -> None:
    name, fields = instruction.name, instruction.fields
    codes = codes_of(instruction)
    opsel = fields.get("opsel", 0)
    if name.startswith(("v_permlane16_swap", "v_permlane32_swap")):
        lanes = 16 if "16" in name else 32
        lowering.emit("v_permlane_swap_b32", [lowering.row(codes[0] - 256)], dst=fields["vdst"], imm=[lanes])
        return
    handler = re.sub("permlanex16", "permlane16", name)
    types = lowering.types(handler)
    if not types:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    destination = fields["vdst"]
    if types[0] == "scalar":
        destination = lowering.scalar_index(destination)
    sources = [lowering.source(instruction, code, "u32") for code in codes[: len(types) - 1]]
    # op_sel bit 0: fetch inactive lanes, bit 1: bound control.
    imm = [int("permlanex16" in name), opsel & 1, opsel >> 1 & 1]
    lowering.emit(handler, sources, dst=destination, imm=imm)


def _lower_accumulators(lowering: Lowering, instruction: Instruction) -> None:
    fields = instruction.fields
    code, row = fields["src0"], fields["vdst"]
    reads_acc = instruction.name != "v_accvgpr_write"
    writes_acc = instruction.name != "v_accvgpr_read"
    source = lowering.source(instruction, code, "u32")
    if reads_acc and source.kind == Kind.VECTOR:
        source.index += ROW_ACC
    lowering.emit("v_mov_b32", [source], dst=row + (ROW_ACC if writes_acc else 0))


def _lower_swap(lowering: Lowering, instruction: Instruction) -> None:
    if instruction.name != "v_swap_b32":
        raise lowering.refuse(instruction, "the emulator has no such operation")
    other = lowering.row(instruction.fields["src0"] - 256)
    lowering.emit("v_swap_b32", [other], dst=instruction.fields["vdst"])


def _cut(lowering: Lowering, instruction: Instruction, source: Operand, index: int, kind: str) -> Operand:
    """Emit the selection of a byte or half of an SDWA source; returns what to use instead."""
    if index > 1:
        return source
    extra = instruction.extra
    if extra[f"sel{index}"] == 6:
        return source
    plain = Operand.from_buffer_copy(source)
    plain.and_mask, plain.xor_mask = 0xFFFFFFFF, 0
    row = ROW_TEMPORARY + 1 + index
    lowering.emit("sdwa_source", [plain], dst=row, imm=[extra[f"sel{index}"], extra[f"sext{index}"]])
    cut = lowering.row(row)
    cut.and_mask, cut.xor_mask = source.and_mask, source.xor_mask
    return cut


def _lower_sdwa(lowering: Lowering, instruction: Instruction) -> None:
    handler, order = _ACCUMULATE.get(instruction.name, (instruction.name, ""))
    types = lowering.types(handler)
    if not types or "pk" in types:
        raise lowering.refuse(instruction, "the emulator has no such operation with SDWA")
    sources = sources_of(lowering, instruction, types, order, packed=False)
    sources = [_cut(lowering, instruction, s, i, types[1 + i]) for i, s in enumerate(sources)]
    extra, row = instruction.extra, instruction.fields["vdst"]
    if extra["dst_sel"] == 6:
        _emit_result(lowering, instruction, handler, types[0], sources)
        return
    instruction.fields["vdst"] = ROW_TEMPORARY + 3
    _emit_result(lowering, instruction, handler, types[0], sources)
    instruction.fields["vdst"] = row
    result = lowering.row(ROW_TEMPORARY + 3)
    lowering.emit("sdwa_result", [result], dst=row, imm=[extra["dst_sel"], extra["dst_unused"]])


def _lower_dual(lowering: Lowering, instruction: Instruction) -> None:
    """Two operations that both read before either writes."""
    fields = instruction.fields
    names = instruction.name.split(" :: ")
    halves = []
    for name, suffix in zip(names, ("", "_y"), strict=True):
        single = {"src0": fields["src0" + suffix], "src1": fields["src1" + suffix], "vdst": fields["vdst" + suffix]}
        if name == "v_mov_b32":
            del single["src1"]
        halves.append(
            Instruction("VOP2", name, instruction.address, instruction.size, single, literal=instruction.literal)
        )
    x, y = halves
    target = x.fields["vdst"]
    reads = {code - 256 for code in codes_of(y)} | {y.fields["vdst"]}
    if target not in reads:
        _lower_plain(lowering, x)
        _lower_plain(lowering, y)
        return
    # X's result waits in a temporary row until Y has read; an accumulating X still reads its own destination.
    _lower_plain(lowering, x)
    lowering.ops[-1].dst = ROW_TEMPORARY + 4
    _lower_plain(lowering, y)
    lowering.emit("v_mov_b32", [lowering.row(ROW_TEMPORARY + 4)], dst=target)
