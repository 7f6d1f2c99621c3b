/* Intrinsics of AVX2, AVX-512 and AMX, as Intel names them. <immintrin.h> takes longer to read than most kernels to compile,
 * so for the clang that is pinned those in use stand here; any other compiler may have other builtins, and reads it. */
#ifndef ROCMFORGE_INTRINSICS_H
#define ROCMFORGE_INTRINSICS_H

#if defined(__clang__) && __clang_major__ == 22

/* Registers of bytes, and what builtins take them for. */
typedef long long __m128i __attribute__((vector_size(16)));
typedef long long __m256i __attribute__((vector_size(32)));
typedef float __m256 __attribute__((vector_size(32)));
typedef char s8x32 __attribute__((vector_size(32)));
typedef int8_t i8x32 __attribute__((vector_size(32)));
typedef int16_t s16x16 __attribute__((vector_size(32)));
typedef int32_t s32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));

typedef long long anywhere64 __attribute__((aligned(1), may_alias));
typedef __m128i anywhere128 __attribute__((aligned(1), may_alias));
typedef __m256i anywhere256 __attribute__((aligned(1), may_alias));
typedef __fp16 f16x8 __attribute__((vector_size(16)));

#define _MM_FROUND_TO_NEAREST_INT 0
/* A function's code has registers as wide as the widest of what it calls. */
#define INTRINSIC(bits) INLINE __attribute__((min_vector_width(bits)))

INTRINSIC(128) __m128i _mm_loadu_si128(const __m128i *p) { return *(const anywhere128 *)p; }
INTRINSIC(128) void _mm_storeu_si128(__m128i *p, __m128i v) { *(anywhere128 *)p = v; }
INTRINSIC(128) __m128i _mm_loadl_epi64(const __m128i *p) { return (__m128i){ *(const anywhere64 *)p, 0 }; }
INTRINSIC(256) __m256i _mm256_loadu_si256(const __m256i *p) { return *(const anywhere256 *)p; }
INTRINSIC(256) void _mm256_storeu_si256(__m256i *p, __m256i v) { *(anywhere256 *)p = v; }

INTRINSIC(256) __m256 _mm256_fmadd_ps(__m256 a, __m256 b, __m256 c) { return __builtin_elementwise_fma(a, b, c); }
INTRINSIC(256) __m256 _mm256_max_ps(__m256 a, __m256 b) { return __builtin_ia32_maxps256(a, b); }
INTRINSIC(256) __m256 _mm256_cvtph_ps(__m128i v) { return __builtin_convertvector((f16x8)v, __m256); }
#define _mm256_cvtps_ph(v, rounding) ((__m128i)__builtin_ia32_vcvtps2ph256(v, rounding))

INTRINSIC(256) __m256i _mm256_set1_epi16(int16_t x)
{
    return (__m256i)(s16x16){ x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x };
}
INTRINSIC(256) __m256i _mm256_set1_epi32(int32_t x) { return (__m256i)(s32x8){ x, x, x, x, x, x, x, x }; }
INTRINSIC(256) __m256i _mm256_broadcastsi128_si256(__m128i v) { return __builtin_shufflevector(v, v, 0, 1, 0, 1); }
INTRINSIC(256) __m256i _mm256_cvtepi8_epi32(__m128i v)
{
    const i8x16 bytes = (i8x16)v;
    return (__m256i) __builtin_convertvector(__builtin_shufflevector(bytes, bytes, 0, 1, 2, 3, 4, 5, 6, 7), s32x8);
}
INTRINSIC(256) __m256i _mm256_cvtepu8_epi32(__m128i v)
{
    const u8x16 bytes = (u8x16)v;
    return (__m256i) __builtin_convertvector(__builtin_shufflevector(bytes, bytes, 0, 1, 2, 3, 4, 5, 6, 7), s32x8);
}
INTRINSIC(256) __m256i _mm256_add_epi32(__m256i a, __m256i b) { return (__m256i)((u32x8)a + (u32x8)b); }
INTRINSIC(256) __m256i _mm256_madd_epi16(__m256i a, __m256i b)
{
    return (__m256i)__builtin_ia32_pmaddwd256((s16x16)a, (s16x16)b);
}
INTRINSIC(256) __m256i _mm256_maddubs_epi16(__m256i a, __m256i b)
{
    return (__m256i)__builtin_ia32_pmaddubsw256((s8x32)a, (s8x32)b);
}
INTRINSIC(256) __m256i _mm256_abs_epi8(__m256i v) { return (__m256i)__builtin_elementwise_abs((i8x32)v); }
INTRINSIC(256) __m256i _mm256_sign_epi8(__m256i a, __m256i b)
{
    return (__m256i)__builtin_ia32_psignb256((s8x32)a, (s8x32)b);
}
INTRINSIC(256) __m256i _mm256_shuffle_epi8(__m256i a, __m256i b)
{
    return (__m256i)__builtin_ia32_pshufb256((s8x32)a, (s8x32)b);
}

#ifdef __AVX512F__
typedef long long __m512i __attribute__((vector_size(64)));
typedef float __m512 __attribute__((vector_size(64)));
typedef char s8x64 __attribute__((vector_size(64)));

INTRINSIC(512) __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { return __builtin_elementwise_fma(a, b, c); }
INTRINSIC(512) __m512 _mm512_max_ps(__m512 a, __m512 b) { return __builtin_ia32_maxps512(a, b, 4); }
INTRINSIC(512) __m512 _mm512_cvtph_ps(__m256i v)
{
    return __builtin_ia32_vcvtph2ps512_mask((s16x16)v, (__m512){ 0 }, (uint16_t)-1, 4);
}
#define _mm512_cvtps_ph(v, rounding)                                                                                   \
    ((__m256i)__builtin_ia32_vcvtps2ph512_mask(v, rounding, (s16x16){ 0 }, (uint16_t)-1))
INTRINSIC(512) __m512i _mm512_set1_epi32(int32_t x)
{
    return (__m512i)(i32x16){ x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x };
}
INTRINSIC(512) __m512i _mm512_cvtepi8_epi32(__m128i v) { return (__m512i) __builtin_convertvector((i8x16)v, i32x16); }
INTRINSIC(512) __m512i _mm512_cvtepu8_epi32(__m128i v) { return (__m512i) __builtin_convertvector((u8x16)v, i32x16); }
INTRINSIC(512) __m512i _mm512_broadcast_i32x4(__m128i v)
{
    return __builtin_shufflevector(v, v, 0, 1, 0, 1, 0, 1, 0, 1);
}
INTRINSIC(512) __m512i _mm512_shuffle_epi8(__m512i a, __m512i b)
{
    return (__m512i)__builtin_ia32_pshufb512((s8x64)a, (s8x64)b);
}
INTRINSIC(512) __m512i _mm512_dpbusd_epi32(__m512i sums, __m512i a, __m512i b)
{
    return (__m512i)__builtin_ia32_vpdpbusd512((i32x16)sums, (u8x64)a, (s8x64)b);
}
INTRINSIC(512) __m512i _mm512_dpwssd_epi32(__m512i sums, __m512i a, __m512i b)
{
    return (__m512i)__builtin_ia32_vpdpwssd512((i32x16)sums, (i32x16)a, (i32x16)b);
}
INTRINSIC(512) __m512i _mm512_sllv_epi32(__m512i v, __m512i counts)
{
    return (__m512i)__builtin_ia32_psllv16si((i32x16)v, (i32x16)counts);
}
INTRINSIC(512) int32_t _mm512_reduce_max_epi32(__m512i v) { return __builtin_reduce_max((i32x16)v); }
#endif

#if defined(__AMX_INT8__) && !defined(_tile_dpbssd)
#define _tile_loadconfig(shapes) __builtin_ia32_tile_loadconfig(shapes)
#define _tile_release() __builtin_ia32_tilerelease()
#define _tile_zero(tile) __builtin_ia32_tilezero(tile)
#define _tile_loadd(tile, base, stride) __builtin_ia32_tileloadd64(tile, base, stride)
#define _tile_stored(tile, base, stride) __builtin_ia32_tilestored64(tile, base, stride)
#define _tile_dpbssd(sums, a, b) __builtin_ia32_tdpbssd(sums, a, b)
#endif

#else
#include <immintrin.h>
#endif

#endif
