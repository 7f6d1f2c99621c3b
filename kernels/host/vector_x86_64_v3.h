/* 16-lane vectors on AVX2, FMA and F16C: two registers each. See vector.h. */
#include "intrinsics.h"

#define SIGNED_DOT 1
#define MORE_TOKENS 8
#define FEW_FORMS 1
#define ACCUMULATORS 6 /* vectors summed to at once: 12 of the 16 registers, the others hold operands */
#define MORE_ACCUMULATORS 4

typedef union {
    f32x16 whole;
    __m256 half[2];
} f32_halves;
typedef union {
    i32x16 whole;
    __m256i half[2];
} i32_halves;
typedef union {
    u8x64 whole;
    __m256i half[2];
} u8_halves;

INLINE f32x16 vector_fma(f32x16 a, f32x16 b, f32x16 c)
{
    f32_halves x = { a }, y = { b }, z = { c };
    z.half[0] = _mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]);
    z.half[1] = _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]);
    return z.whole;
}
INLINE f32x16 vector_max(f32x16 a, f32x16 b)
{
    f32_halves x = { a }, y = { b };
    x.half[0] = _mm256_max_ps(x.half[0], y.half[0]);
    x.half[1] = _mm256_max_ps(x.half[1], y.half[1]);
    return x.whole;
}
INLINE f32x16 load_f16(const void *p)
{
    f32_halves r;
    r.half[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
    r.half[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
    return r.whole;
}
INLINE void store_f16(void *p, f32x16 v)
{
    f32_halves x = { v };
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.half[0], _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)p + 1, _mm256_cvtps_ph(x.half[1], _MM_FROUND_TO_NEAREST_INT));
}
#define HAS_BYTE_LOADS
INLINE i32x16 load_u8(const void *p)
{
    i32_halves r;
    r.half[0] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    r.half[1] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)((const uint8_t *)p + 8)));
    return r.whole;
}
INLINE i32x16 load_i8(const void *p)
{
    i32_halves r;
    r.half[0] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
    r.half[1] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)((const uint8_t *)p + 8)));
    return r.whole;
}
/* Pairs add up in 16 bits: exact for weights up to 128, which all callers hold (2 * 128 * 127 < 2^15). */
INLINE i32x16 dot_unsigned(i32x16 acc, u8x64 w, const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    const __m256i broadcast = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    i32_halves sum = { acc };
    u8_halves weights = { w };
    for (int h = 0; h < 2; h++)
        sum.half[h] =
            _mm256_add_epi32(sum.half[h], _mm256_madd_epi16(_mm256_maddubs_epi16(weights.half[h], broadcast), ones));
    return sum.whole;
}
INLINE i32x16 dot_signed(i32x16 acc, u8x64 w, const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    const __m256i broadcast = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    i32_halves sum = { acc };
    u8_halves weights = { w };
    for (int h = 0; h < 2; h++) {
        const __m256i magnitude = _mm256_abs_epi8(weights.half[h]);
        const __m256i signed_x = _mm256_sign_epi8(broadcast, weights.half[h]);
        sum.half[h] = _mm256_add_epi32(sum.half[h], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed_x), ones));
    }
    return sum.whole;
}
#define HAS_DOT_OF_TWO
INLINE i32x16 dot_of_two(i32x16 acc, i32x16 pairs, const int16_t *x)
{
    int32_t two;
    __builtin_memcpy(&two, x, 4);
    i32_halves sum = { acc };
    const i32_halves both = { pairs };
    for (int h = 0; h < 2; h++)
        sum.half[h] = _mm256_add_epi32(sum.half[h], _mm256_madd_epi16(both.half[h], _mm256_set1_epi32(two)));
    return sum.whole;
}
INLINE u8x64 look_up(u8x16 table, u8x64 codes)
{
    const __m256i both = _mm256_broadcastsi128_si256((__m128i)table);
    u8_halves found = { codes };
    for (int h = 0; h < 2; h++) found.half[h] = _mm256_shuffle_epi8(both, found.half[h]);
    return found.whole;
}
/* Of 16 entries for each four rows. */
INLINE u8x64 look_up_rows(u8x64 table, u8x64 codes)
{
    const u8_halves tables = { table };
    u8_halves found = { codes };
    for (int h = 0; h < 2; h++) found.half[h] = _mm256_shuffle_epi8(tables.half[h], found.half[h]);
    return found.whole;
}
