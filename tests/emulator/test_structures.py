"""Structures that Python fills and C reads: their fields as native/wave.h has them, with the bytes of each."""

from __future__ import annotations

import pytest

from rocmforge.tools.emulator import structures

FIELDS = {
    "Operand": ("kind:1:1 shift:1:1 shift_high:1:1 index:4:4 low:4:4 high:4:4 and_mask:4:4 xor_mask:4:4"),
    "Op": (
        "handler:8:8 s:72:4 dst:4:4 dst2:4:4 clamp:4:4 "
        "omod:4:4 dst_shift:4:4 keep_high:4:4 imm:24:4 address:4:4 "
        "first:4:4"
    ),
    "Fault": ("code:4:4 op:4:4 lane:4:4 wave:4:4 group:12:4 other_wave:4:4 is_write:4:4 size:4:4 address:8:8"),
    "Allocation": ("begin:8:8 end:8:8 lines:8:8 read_only:4:4 slot:4:4"),
    "Traffic": ("instructions:8:8 bytes:8:8 transactions:8:8 full_transactions:8:8 distinct_lines:8:8"),
    "Totals": ("lds_instructions:8:8 lds_bytes:8:8 lds_conflict_cycles:8:8 barriers:8:8 waves:8:8"),
    "Worker": ("totals:40:8 traffic:8:8 hits:8:8 fault:48:8"),
    "Launch": (
        "ops:8:8 num_ops:4:4 entry:4:4 op_of_word:8:8 image:8:8 "
        "image_words:4:4 grid:12:4 block:12:4 items:12:4 user_sgprs:128:4 "
        "num_user_sgprs:4:4 enable_group_id:12:4 enable_group_info:4:4 architected_ids:4:4 num_id_dims:4:4 "
        "num_vgprs:4:4 has_acc:4:4 lds_bytes:4:4 scratch_bytes:4:4 max_ops:8:8 "
        "check:4:4 count:4:4 unaligned:4:4 allocations:8:8 num_allocations:4:4 "
        "next_group:8:8 stop:8:8"
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_lie_where_c_has_them(name: str) -> None:
    """Each begins where the one before ends, at a multiple of its own numbers' bytes."""
    structure, end = getattr(structures, name), 0
    expected = [field.split(":") for field in FIELDS[name].split()]
    assert [field[0] for field in structure._fields_] == [field for field, _, _ in expected]
    for field, size, align in expected:
        end += -end % int(align)
        found = getattr(structure, field)
        assert (field, found.offset, found.size) == (field, end, int(size))
        end += int(size)
