"""One spelling for an operation of all families, and which GPU has which family."""

from __future__ import annotations

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.tools.emulator.families import canonical, family, family_name, lds_bytes, runs_on

# name in AMD's tables: the one that handlers have
RDNA = {
    "V_ADD_F32_E32": "v_add_f32",
    "V_ADD3_U32_E64": "v_add3_u32",
    "V_MIN_NUM_F32": "v_min_f32",
    "V_MAX_NUM_F64": "v_max_f64",
    "V_MIN3_NUM_F16": "v_min3_f16",
    "V_MAX3_NUM_F32": "v_max3_f32",
    "V_MED3_NUM_F32": "v_med3_f32",
    "V_MINMAX_NUM_F32": "v_minmax_f32",
    "V_MAXMIN_NUM_F16": "v_maxmin_f16",
    "S_ADD_CO_U32": "s_add_u32",
    "S_SUB_CO_I32": "s_sub_i32",
    "S_ADD_CO_CI_U32": "s_addc_u32",
    "S_SUB_CO_CI_U32": "s_subb_u32",
    "S_ADDK_CO_I32": "s_addk_i32",
    "V_MAD_CO_U64_U32": "v_mad_u64_u32",
    "DS_LOAD_B32": "ds_load_b32",
    "V_ADD_U16": "v_add_u16",
}
CDNA = {
    "V_ADD_U32_E32": "v_add_nc_u32",
    "V_SUB_I16": "v_sub_nc_i16",
    "V_SUBREV_U16_E32": "v_subrev_nc_u16",
    "V_ADD_F32_E32": "v_add_f32",
    "V_ADDC_CO_U32": "v_add_co_ci_u32",
    "V_SUBB_CO_U32_E32": "v_sub_co_ci_u32",
    "V_SUBBREV_CO_U32": "v_subrev_co_ci_u32",
    "V_FFBH_U32_E64": "v_clz_i32_u32",
    "V_FFBL_B32_E32": "v_ctz_i32_b32",
    "V_FFBH_I32_E32": "v_cls_i32",
    "V_CVT_RPI_I32_F32_E32": "v_cvt_nearest_i32_f32",
    "V_CVT_FLR_I32_F32_E32": "v_cvt_floor_i32_f32",
    "V_CVT_PKRTZ_F16_F32": "v_cvt_pk_rtz_f16_f32",
    "V_CVT_PKNORM_U16_F16": "v_cvt_pk_norm_u16_f16",
    "V_MAD_MIXHI_F16": "v_fma_mixhi_f16",
    "V_MUL_LEGACY_F32": "v_mul_dx9_zero_f32",
    "V_MAD_LEGACY_U16_E64": "v_mad_u16",
    "V_FMA_LEGACY_F16_E64": "v_fma_f16",
    "V_DIV_FIXUP_LEGACY_F16_E64": "v_div_fixup_f16",
    "V_CMP_TRU_F16_E32": "v_cmp_t_f16",
    "V_CMPX_TRU_F64_E64": "v_cmpx_t_f64",
    "V_DOT2C_F32_F16_E32": "v_dot2acc_f32_f16",
    "S_FF1_I32_B64": "s_ctz_i32_b64",
    "S_FLBIT_I32_B32": "s_clz_i32_u32",
    "S_FLBIT_I32_B64": "s_clz_i32_u64",
    "S_FLBIT_I32": "s_cls_i32",
    "S_FLBIT_I32_I64": "s_cls_i32_i64",
    "S_ANDN1_WREXEC_B64": "s_and_not0_wrexec_b64",
    "S_ORN2_B64": "s_or_not1_b64",
    "DS_WRITE2ST64_B32": "ds_store_2addr_stride64_b32",
    "DS_READ2ST64_B64": "ds_load_2addr_stride64_b64",
    "DS_WRITE2_B64": "ds_store_2addr_b64",
    "DS_READ2_B32": "ds_load_2addr_b32",
    "DS_WRITE_B96": "ds_store_b96",
    "DS_READ_U16_D16_HI": "ds_load_u16_d16_hi",
    "DS_WRXCHG_RTN_B32": "ds_storexchg_rtn_b32",
    "DS_CMPST_RTN_F64": "ds_cmpstore_rtn_f64",
    "S_LOAD_DWORD": "s_load_b32",
    "S_LOAD_DWORDX2": "s_load_b64",
    "GLOBAL_LOAD_DWORDX3": "global_load_b96",
    "SCRATCH_STORE_DWORDX4": "scratch_store_b128",
    "S_LOAD_DWORDX8": "s_load_b256",
    "S_LOAD_DWORDX16": "s_load_b512",
    "GLOBAL_STORE_BYTE_D16_HI": "global_store_d16_hi_b8",
    "GLOBAL_STORE_SHORT_D16_HI": "global_store_d16_hi_b16",
    "FLAT_LOAD_UBYTE_D16_HI": "flat_load_d16_hi_u8",
    "FLAT_LOAD_SHORT_D16_HI": "flat_load_d16_hi_b16",
    "FLAT_LOAD_SBYTE_D16": "flat_load_d16_i8",
    "FLAT_LOAD_SHORT_D16": "flat_load_d16_b16",
    "GLOBAL_LOAD_UBYTE": "global_load_u8",
    "GLOBAL_LOAD_SBYTE": "global_load_i8",
    "GLOBAL_LOAD_USHORT": "global_load_u16",
    "GLOBAL_LOAD_SSHORT": "global_load_i16",
    "GLOBAL_STORE_BYTE": "global_store_b8",
    "GLOBAL_STORE_SHORT": "global_store_b16",
    "GLOBAL_LOAD_LDS_DWORD": "global_load_lds_b32",
    "GLOBAL_ATOMIC_CMPSWAP": "global_atomic_cmpswap_b32",
    "GLOBAL_ATOMIC_AND_X2": "global_atomic_and_b64",
    "FLAT_ATOMIC_DEC": "flat_atomic_dec_u32",
    "FLAT_ATOMIC_INC_X2": "flat_atomic_inc_u64",
    "GLOBAL_ATOMIC_SMIN": "global_atomic_min_i32",
    "GLOBAL_ATOMIC_UMAX_X2": "global_atomic_max_u64",
    "GLOBAL_ATOMIC_SMAX_X2": "global_atomic_max_i64",
}


@pytest.mark.parametrize(("name", "wanted"), RDNA.items())
def test_spelling_of_all_families(name: str, wanted: str) -> None:
    assert canonical(name, "rdna3") == canonical(name, "rdna4") == wanted


@pytest.mark.parametrize(("name", "wanted"), CDNA.items())
def test_spelling_of_cdna(name: str, wanted: str) -> None:
    assert canonical(name, "cdna") == wanted


def test_family_of_an_arch() -> None:
    found = {arch: family_name(arch) for arch in ("gfx942", "gfx950", "gfx1100", "gfx1151", "gfx1200", "gfx1201")}
    assert found == {
        **{"gfx942": "cdna", "gfx950": "cdna", "gfx1100": "rdna3", "gfx1151": "rdna3"},
        **{"gfx1200": "rdna4", "gfx1201": "rdna4"},
    }
    for arch in ("gfx906", "gfx1030", "gfx12-generic", "gfx11-generic", ""):
        with pytest.raises(ToolchainError, match=f"the emulator has no {arch}; it has gfx1100, .*, gfx942"):
            family_name(arch)


def test_what_families_differ_in() -> None:
    """Wave sizes, how workgroups' ids come, accumulation registers, and the granule of the registers' count."""
    found = {name: family(name) for name in ("cdna", "rdna3", "rdna4")}
    assert {n: f.wave_sizes for n, f in found.items()} == {"cdna": (64,), "rdna3": (32, 64), "rdna4": (32, 64)}
    assert {n: f.vgpr_granule for n, f in found.items()} == {
        **{"cdna": {64: 8}, "rdna3": {32: 8, 64: 4}, "rdna4": {32: 8, 64: 4}}
    }
    assert [(f.architected_ids, f.has_acc, f.zero_high) for f in found.values()] == [
        (False, True, True),
        (False, False, False),
        (True, False, False),
    ]
    assert found["cdna"].opcodes["VOPD"] == {}
    assert found["rdna3"].opcodes["SOPP"][48] == "s_endpgm"


def test_lds_and_generic_code() -> None:
    assert (lds_bytes("gfx1100"), lds_bytes("gfx942"), lds_bytes("gfx950")) == (65536, 65536, 163840)
    assert runs_on("gfx1100", "gfx1100")
    assert runs_on("gfx11-generic", "gfx1100")
    assert not runs_on("gfx1100", "gfx1101")
    assert not runs_on("gfx12-generic", "gfx1100")
