"""ctypes mirrors of the structures of native/wave.h."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int32, c_uint8, c_uint32, c_uint64, c_void_p
from enum import IntEnum


class Kind(IntEnum):
    """Where an operand's value comes from."""

    NONE = 0
    VECTOR = 1
    SCALAR = 2
    CONSTANT = 3
    SCC = 4
    VCCZ = 5
    EXECZ = 6


class Operand(ctypes.Structure):
    """A source operand: see native/wave.h."""

    _fields_ = [
        ("kind", c_uint8),
        ("shift", c_uint8),
        ("shift_high", c_uint8),
        ("index", c_uint32),
        ("low", c_uint32),
        ("high", c_uint32),
        ("and_mask", c_uint32),
        ("xor_mask", c_uint32),
    ]


class Op(ctypes.Structure):
    """A decoded operation: see native/wave.h."""

    _fields_ = [
        ("handler", c_uint64),
        ("s", Operand * 3),
        ("dst", c_uint32),
        ("dst2", c_uint32),
        ("clamp", c_uint32),
        ("omod", c_uint32),
        ("dst_shift", c_uint32),
        ("keep_high", c_uint32),
        ("imm", c_int32 * 6),
        ("address", c_uint32),
        ("first", c_uint32),
    ]


class Fault(ctypes.Structure):
    """What stopped a wave."""

    _fields_ = [
        ("code", c_uint32),
        ("op", c_uint32),
        ("lane", c_uint32),
        ("wave", c_uint32),
        ("group", c_uint32 * 3),
        ("other_wave", c_uint32),
        ("is_write", c_uint32),
        ("size", c_uint32),
        ("address", c_uint64),
    ]


class Allocation(ctypes.Structure):
    """A live allocation; kernels may touch nothing else."""

    _fields_ = [
        ("begin", c_uint64),
        ("end", c_uint64),
        ("lines", c_void_p),
        ("read_only", c_uint32),
        ("slot", c_uint32),
    ]


class Traffic(ctypes.Structure):
    """Global memory traffic of one allocation in one direction."""

    _fields_ = [
        ("instructions", c_uint64),
        ("bytes", c_uint64),
        ("transactions", c_uint64),
        ("full_transactions", c_uint64),
        ("distinct_lines", c_uint64),
    ]


class Totals(ctypes.Structure):
    """Counts that are not of an instruction or an allocation."""

    _fields_ = [
        ("lds_instructions", c_uint64),
        ("lds_bytes", c_uint64),
        ("lds_conflict_cycles", c_uint64),
        ("barriers", c_uint64),
        ("waves", c_uint64),
    ]


class Worker(ctypes.Structure):
    """What one thread counts and reports."""

    _fields_ = [("totals", Totals), ("traffic", c_void_p), ("hits", c_void_p), ("fault", Fault)]


class Launch(ctypes.Structure):
    """One kernel launch: see native/wave.h."""

    _fields_ = [
        ("ops", c_void_p),
        ("num_ops", c_uint32),
        ("entry", c_uint32),
        ("op_of_word", c_void_p),
        ("image", c_uint64),
        ("image_words", c_uint32),
        ("grid", c_uint32 * 3),
        ("block", c_uint32 * 3),
        ("items", c_uint32 * 3),
        ("user_sgprs", c_uint32 * 32),
        ("num_user_sgprs", c_uint32),
        ("enable_group_id", c_uint32 * 3),
        ("enable_group_info", c_uint32),
        ("architected_ids", c_uint32),
        ("num_id_dims", c_uint32),
        ("num_vgprs", c_uint32),
        ("has_acc", c_uint32),
        ("lds_bytes", c_uint32),
        ("scratch_bytes", c_uint32),
        ("max_ops", c_uint64),
        ("check", c_uint32),
        ("count", c_uint32),
        ("unaligned", c_uint32),
        ("allocations", c_void_p),
        ("num_allocations", c_uint32),
        ("next_group", c_void_p),
        ("stop", c_void_p),
    ]


class Entry(ctypes.Structure):
    """A row of the table of handlers."""

    _fields_ = [("name", c_char_p), ("types", c_char_p), ("run", c_void_p)]
