"""Lowering of scalar ALU, control flow and scalar memory."""

from __future__ import annotations

from .decode import NULL, Instruction, signed
from .lower import S_NULL, Lowering

# Waiting and hints change nothing here: every access is done when its operation is.
_NOTHING = frozenset(
    (
        "s_nop",
        "s_clause",
        "s_delay_alu",
        "s_waitcnt",
        "s_wait_idle",
        "s_waitcnt_depctr",
        "s_wait_alu",
        "s_set_inst_prefetch_distance",
        "s_setprio",
        "s_wakeup",
        "s_code_end",
        "s_icache_inv",
        "s_incperflevel",
        "s_decperflevel",
        "s_ttracedata",
        "s_ttracedata_imm",
        "s_waitcnt_vscnt",
        "s_waitcnt_vmcnt",
        "s_waitcnt_expcnt",
        "s_waitcnt_lgkmcnt",
        "s_wait_event",
        "s_sendmsg",
        "s_dcache_inv",
        "s_gl1_inv",
        "s_dcache_wb",
        "s_wait_loadcnt",
        "s_wait_storecnt",
        "s_wait_samplecnt",
        "s_wait_bvhcnt",
        "s_wait_expcnt",
        "s_wait_dscnt",
        "s_wait_kmcnt",
        "s_wait_loadcnt_dscnt",
        "s_wait_storecnt_dscnt",
        "s_prefetch_inst",
        "s_prefetch_data",
        "s_prefetch_inst_pc_rel",
        "s_prefetch_data_pc_rel",
        "s_version",
        "s_dcache_inv_vol",
        "s_dcache_wb_vol",
    )
)
_CLOCKS = ("s_memtime", "s_memrealtime")
_READ_OLD = ("s_cmov_b32", "s_cmov_b64", "s_bitset0_b32", "s_bitset0_b64", "s_bitset1_b32", "s_bitset1_b64")
_HW_MODE, _HW_SHADER_CYCLES = 1, 29
_SMEM_BYTES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16, "b256": 32, "b512": 64}


def lower_scalar(lowering: Lowering, instruction: Instruction) -> None:
    """Lower SOP1, SOP2, SOPC, SOPK, SOPP.

    Raises:
        UnknownInstruction: no handler.
    """
    name = instruction.name
    if name in _NOTHING:
        return
    if instruction.format == "SOPP":
        _flow(lowering, instruction)
    elif instruction.format == "SOPK":
        _immediate(lowering, instruction)
    elif name in ("s_getpc_b64", "s_swappc_b64", "s_setpc_b64"):
        _program_counter(lowering, instruction)
    elif name.startswith("s_barrier_signal"):
        # The number of the barrier is -1 for the workgroup's; named barriers do not exist below gfx1250.
        if instruction.fields["src0"] != 193 or name != "s_barrier_signal":
            raise lowering.refuse(instruction, "only the workgroup's barrier (-1) is known")
        lowering.emit("s_barrier_signal")
    elif name.startswith("s_sendmsg_rtn"):
        words = 1 if name.endswith("b32") else 2
        lowering.emit("clock", dst=lowering.scalar_index(instruction.fields["sdst"]), imm=[words])
    elif name == "s_sleep_var":
        lowering.emit("s_sleep")
    else:
        _arithmetic(lowering, instruction)


def _arithmetic(lowering: Lowering, instruction: Instruction) -> None:
    name, fields = instruction.name, instruction.fields
    destination = lowering.scalar_index(fields["sdst"]) if instruction.format != "SOPC" else S_NULL
    if name in ("s_fmac_f32", "s_fmamk_f32", "s_fmaak_f32"):
        a = lowering.source(instruction, fields["src0"], "f32")
        b = lowering.source(instruction, fields["src1"], "f32")
        literal = lowering.constant(instruction.literal or 0)
        order = {
            "s_fmac_f32": [a, b, lowering.scalar(destination)],
            "s_fmamk_f32": [a, literal, b],
            "s_fmaak_f32": [a, b, literal],
        }
        lowering.emit("s_fma_f32", order[name], dst=destination)
        return
    types = lowering.types(name)
    if not types:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    codes = [fields["src0"], fields.get("src1", 0)][: len(types) - 1]
    if name in _READ_OLD:
        sources = [lowering.scalar(destination), lowering.source(instruction, fields["src0"], types[2])]
    else:
        sources = [lowering.source(instruction, c, t) for c, t in zip(codes, types[1:], strict=True)]
    lowering.emit(name, sources, dst=destination)


def _program_counter(lowering: Lowering, instruction: Instruction) -> None:
    types = lowering.types(instruction.name)
    sources = [lowering.source(instruction, instruction.fields["src0"], t) for t in types[1:]]
    destination = lowering.scalar_index(instruction.fields["sdst"])
    lowering.emit(instruction.name, sources, dst=destination, imm=[instruction.address + instruction.size])


def _flow(lowering: Lowering, instruction: Instruction) -> None:
    name = instruction.name
    if name in ("s_branch",) or name.startswith("s_cbranch_"):
        if not lowering.has(name):
            raise lowering.refuse(instruction, "the emulator has no such branch")
        offset = signed(instruction.fields["simm"], 16) * 4
        lowering.emit(name, target=instruction.address + instruction.size + offset)
    elif name in ("s_endpgm", "s_barrier", "s_sleep", "s_barrier_wait"):
        if name == "s_barrier_wait" and signed(instruction.fields["simm"], 16) != -1:
            raise lowering.refuse(instruction, "only the workgroup's barrier (-1) is known")
        lowering.emit(name)
    elif name in ("s_trap", "s_sethalt"):
        lowering.emit("s_trap", imm=[instruction.fields["simm"]])
    elif name in ("s_round_mode", "s_denorm_mode"):
        if instruction.fields["simm"] != (0 if name == "s_round_mode" else 15):
            raise lowering.refuse(instruction, "only rounding to nearest even, with denormals, is known")
    else:
        raise lowering.refuse(instruction, "the emulator has no such operation")


def _immediate(lowering: Lowering, instruction: Instruction) -> None:
    name, simm = instruction.name, instruction.fields["simm"]
    destination = lowering.scalar_index(instruction.fields["sdst"])
    old, value = lowering.scalar(destination), lowering.constant(signed(simm, 16))
    if name == "s_movk_i32":
        lowering.emit("s_mov_b32", [value], dst=destination)
    elif name == "s_cmovk_i32":
        lowering.emit("s_cmov_b32", [old, value], dst=destination)
    elif name == "s_addk_i32":
        lowering.emit("s_add_i32", [old, value], dst=destination)
    elif name == "s_mulk_i32":
        lowering.emit("s_mul_i32", [old, value], dst=destination)
    elif name.startswith("s_cmpk_"):
        unsigned = name.endswith("u32")
        lowering.emit(name.replace("cmpk", "cmp"), [old, lowering.constant(simm) if unsigned else value], dst=S_NULL)
    elif name == "s_call_b64":
        after = instruction.address + instruction.size
        lowering.emit(name, dst=destination, imm=[after, after + signed(simm, 16) * 4])
    elif name == "s_getreg_b32" and simm & 63 == _HW_SHADER_CYCLES:
        lowering.emit("clock", dst=destination, imm=[1])
    elif name.startswith("s_setreg") and simm & 63 == _HW_MODE and _is_default_mode(instruction):
        return
    else:
        raise lowering.refuse(instruction, f"hardware register {simm & 63}" if "reg" in name else "no such operation")


def _is_default_mode(instruction: Instruction) -> bool:
    """Whether a setreg of MODE's low byte sets what holds anyway: nearest even, denormals kept."""
    simm = instruction.fields["simm"]
    offset, size = simm >> 6 & 31, (simm >> 11) + 1
    default = 0xF0 >> offset & ((1 << size) - 1)
    return instruction.literal is not None and offset + size <= 8 and instruction.literal & ((1 << size) - 1) == default


def lower_scalar_memory(lowering: Lowering, instruction: Instruction) -> None:
    """Lower SMEM.

    Raises:
        UnknownInstruction: no handler.
    """
    name, fields = instruction.name, instruction.fields
    if name in _NOTHING:
        return
    if name in _CLOCKS:
        lowering.emit("clock", dst=lowering.scalar_index(fields["sdst"]), imm=[2])
        return
    kind = name.removeprefix("s_load_")
    if kind not in _SMEM_BYTES:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    offset = [] if fields["soffset"] == NULL else [lowering.scalar(lowering.scalar_index(fields["soffset"]))]
    imm = [_SMEM_BYTES[kind], int(kind in ("i8", "i16")), fields["offset"]]
    lowering.emit(
        "s_load", [lowering.scalar(fields["sbase"]), *offset], dst=lowering.scalar_index(fields["sdst"]), imm=imm
    )
