/* 16-lane vectors on AVX-512 with VNNI. See vector.h. */
#include "intrinsics.h"

#define SIGNED_DOT 0 /* there is none: weights that may be negative stand 128 too high */
#define MORE_TOKENS 256 /* that two tiles of weights are multiplied with at once */
#define FEW_FORMS 1 /* whether products of few tokens are compiled for each number of them: up to an eighth faster */
#define ACCUMULATORS 8 /* vectors summed to at once: as many as hide the latency of an addition */
#define MORE_ACCUMULATORS 16 /* where operands are shared by so many */

/* Whether the processor does two multiply-adds of 64 bytes in a cycle: those with AVX-512 but AMD's Zen 4 (family 25). Asked
 * once, for in a virtual machine the question takes microseconds. */
static int two_products_a_cycle(void)
{
    static int found = -1;
    int known = __atomic_load_n(&found, __ATOMIC_RELAXED);
    if (known < 0) {
        uint32_t a = 0, c = 0, d, vendor, rest;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(vendor), "+c"(c), "=d"(d));
        a = 1;
        c = 0;
        __asm__ volatile("cpuid" : "+a"(a), "=b"(rest), "+c"(c), "=d"(d));
        const uint32_t family = (a >> 8 & 15) + (a >> 20 & 255);
        known = !(vendor == 0x68747541 /* Auth(enticAMD) */ && family == 25);
        __atomic_store_n(&found, known, __ATOMIC_RELAXED);
    }
    return known;
}

INLINE f32x16 vector_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
INLINE f32x16 vector_max(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE f32x16 load_f16(const void *p) { return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void store_f16(void *p, f32x16 v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#define HAS_BYTE_LOADS
INLINE i32x16 load_u8(const void *p) { return (i32x16)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)); }
INLINE i32x16 load_i8(const void *p) { return (i32x16)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
/* acc[r] += sum over j of w[4r+j] (unsigned) * x[j] (signed) */
INLINE i32x16 dot_unsigned(i32x16 acc, u8x64 w, const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(four));
}
#define HAS_DOT_OF_TWO
INLINE i32x16 dot_of_two(i32x16 acc, i32x16 pairs, const int16_t *x)
{
    int32_t two;
    __builtin_memcpy(&two, x, 4);
    return (i32x16)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)pairs, _mm512_set1_epi32(two));
}
#define HOLD(v) __asm__ volatile("" : "+v"(v))
/* By counts as wide as lanes, which instructions read where they lie. */
#define HAS_LANE_SHIFTS
INLINE i32x16 shift_lanes(i32x16 v, int32_t count)
{
    return (i32x16)_mm512_sllv_epi32((__m512i)v, _mm512_set1_epi32(count));
}
/* Of loops over lanes compilers make many shuffles. */
#define HAS_INTEGER_MAXIMUM
INLINE int32_t horizontal_max_int(i32x16 v) { return _mm512_reduce_max_epi32((__m512i)v); }
INLINE u8x64 look_up(u8x16 table, u8x64 codes)
{
    return (u8x64)_mm512_shuffle_epi8(_mm512_broadcast_i32x4((__m128i)table), (__m512i)codes);
}
/* Of 16 entries for each four rows. */
INLINE u8x64 look_up_rows(u8x64 table, u8x64 codes)
{
    return (u8x64)_mm512_shuffle_epi8((__m512i)table, (__m512i)codes);
}
