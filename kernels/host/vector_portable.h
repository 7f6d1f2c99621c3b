/* 16-lane vectors in plain vector extensions, for any CPU. See vector.h. */

typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef int32_t i32x4 __attribute__((vector_size(16)));

#define SIGNED_DOT 1
#define MORE_TOKENS 8
#define FEW_FORMS 0 /* what they would gain is not worth half of the time that compiling takes */
#define ACCUMULATORS 8 /* in memory; the more there are, the fewer conversions of operands */
#define MORE_ACCUMULATORS ACCUMULATORS

INLINE f32x16 vector_fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; }
INLINE f32x16 vector_max(f32x16 a, f32x16 b)
{
    const i32x16 greater = a > b;
    return (f32x16)((greater & (i32x16)a) | (~greater & (i32x16)b));
}
INLINE f32x16 load_f16(const void *p)
{
    u16x16 half;
    __builtin_memcpy(&half, p, sizeof half);
    const u32x16 wide = __builtin_convertvector(half, u32x16);
    const u32x16 sign = (wide & 0x8000) << 16, exponent = wide & 0x7c00, mantissa = wide & 0x3ff;
    const u32x16 normal = ((wide & 0x7fff) << 13) + 0x38000000u;
    const u32x16 special = ((wide & 0x7fff) << 13) + 0x70000000u; /* infinity, NaN */
    const f32x16 subnormal = __builtin_convertvector((i32x16)mantissa, f32x16) * 0x1p-24f;
    const u32x16 is_zero = (u32x16)(exponent == 0), is_special = (u32x16)(exponent == 0x7c00);
    return (f32x16)(sign | (is_zero & (u32x16)subnormal) | (is_special & special) | (~is_zero & ~is_special & normal));
}
INLINE void store_f16(void *p, f32x16 v)
{
    const u32x16 bits = (u32x16)v, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    /* Round to nearest even on the 13 bits that go; subnormals by letting float addition round. */
    const u32x16 normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - 0x38000000u) >> 13;
    const u32x16 subnormal = (u32x16)((f32x16)magnitude + 0.5f) - 0x3f000000u;
    const u32x16 tiny = (u32x16)(magnitude < 0x38800000u), huge = (u32x16)(magnitude >= 0x477ff000u);
    const u32x16 not_number = (u32x16)(magnitude > 0x7f800000u);
    u32x16 half = (tiny & subnormal) | (huge & 0x7c00) | (~tiny & ~huge & normal);
    half |= not_number & 0x200;
    const u16x16 narrow = __builtin_convertvector(half | sign, u16x16);
    __builtin_memcpy(p, &narrow, sizeof narrow);
}
/* Products of bytes and their sums by pairs fit 16 bits, which any CPU multiplies at once: no byte of x is -128, none of
 * an unsigned w is above 128. */
INLINE i32x16 dot_pairs(i32x16 acc, i16x32 even, i16x32 odd, const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
#ifdef __SSE2__
    union {
        i16x32 whole;
        i16x8 quarter[4];
    } w[2] = { { even }, { odd } };
    union {
        i32x16 whole;
        i32x4 quarter[4];
    } sums = { acc };
    const i16x8 bytes = (i16x8)((i32x4){ 0 } + four), x_even = bytes << 8 >> 8, x_odd = bytes >> 8;
    for (int i = 0; i < 4; i++) {
        sums.quarter[i] += (i32x4)__builtin_ia32_pmaddwd128(w[0].quarter[i], x_even);
        sums.quarter[i] += (i32x4)__builtin_ia32_pmaddwd128(w[1].quarter[i], x_odd);
    }
    return sums.whole;
#else
    const i16x32 bytes = (i16x32)((i32x16){ 0 } + four);
    const i32x16 pairs = (i32x16)(even * (bytes << 8 >> 8) + odd * (bytes >> 8));
    return acc + (pairs << 16 >> 16) + (pairs >> 16);
#endif
}
INLINE i32x16 dot_unsigned(i32x16 acc, u8x64 w, const int8_t *x)
{
    return dot_pairs(acc, (i16x32)w & 255, (i16x32)((u16x32)w >> 8), x);
}
INLINE i32x16 dot_signed(i32x16 acc, u8x64 w, const int8_t *x)
{
    return dot_pairs(acc, (i16x32)w << 8 >> 8, (i16x32)w >> 8, x);
}
/* Of 16 entries those that the bytes name. In arrays: compilers store a vector again for each index into it. */
INLINE u8x64 look_up(u8x16 table, u8x64 codes)
{
    uint8_t entries[16], bytes[64];
    __builtin_memcpy(entries, &table, sizeof entries);
    __builtin_memcpy(bytes, &codes, sizeof bytes);
    for (int i = 0; i < 64; i++) bytes[i] = entries[bytes[i]];
    __builtin_memcpy(&codes, bytes, sizeof codes);
    return codes;
}
/* Of 16 entries for each four rows. */
INLINE u8x64 look_up_rows(u8x64 table, u8x64 codes)
{
    uint8_t entries[64], bytes[64];
    __builtin_memcpy(entries, &table, sizeof entries);
    __builtin_memcpy(bytes, &codes, sizeof bytes);
    for (int i = 0; i < 64; i++) bytes[i] = entries[(i & 48) + bytes[i]];
    __builtin_memcpy(&codes, bytes, sizeof codes);
    return codes;
}
