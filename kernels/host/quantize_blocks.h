/* Floats to int8 blocks, up to 8 at a time, or to a superblock: what 16 floats come to is a few numbers, which are computed
 * for 16 times as many at once, in the lanes of a vector.
 */
#ifndef ROCMFORGE_QUANTIZE_BLOCKS_H
#define ROCMFORGE_QUANTIZE_BLOCKS_H
#include "vector.h"

#define BLOCKS_AT_ONCE 8
#define COLUMNS_AT_ONCE (32 * BLOCKS_AT_ONCE) /* as many as a superblock's */

/* Whether what is written as int8 are superblocks. */
#ifndef OUT_SUPER
#define OUT_SUPER 0
#endif
#define Q8_BYTES(columns)                                                                                              \
    ((size_t)(columns) / (OUT_SUPER ? 256 : 32) * (OUT_SUPER ? sizeof(struct q8_superblock) : sizeof(struct q8_block)))

INLINE i32x16 larger_of(i32x16 a, i32x16 b) { return select_int(a > b, a, b); }
INLINE i32x16 smaller_of(i32x16 a, i32x16 b) { return select_int(a < b, a, b); }
INLINE i32x16 fold_two(i32x16 a, i32x16 b, const int adds)
{
    return adds ? (i32x16)((u32x16)a + (u32x16)b) : larger_of(a, b);
}

/* Lane i is the largest lane of v[i], or the sum of its lanes. Of each two vectors come halves of one, until it is one. */
INLINE i32x16 fold_lanes(i32x16 v[16], const int adds)
{
#define OF_TWO(...) __builtin_shufflevector(v[2 * i], v[2 * i + 1], __VA_ARGS__)
    for (int i = 0; i < 8; i++)
        v[i] = fold_two(OF_TWO(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                        OF_TWO(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31), adds);
    for (int i = 0; i < 4; i++)
        v[i] = fold_two(OF_TWO(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
                        OF_TWO(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31), adds);
    for (int i = 0; i < 2; i++)
        v[i] = fold_two(OF_TWO(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29),
                        OF_TWO(2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31), adds);
    const int i = 0;
    return fold_two(OF_TWO(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                    OF_TWO(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), adds);
#undef OF_TWO
}

/* The other half's. */
INLINE i32x16 swap_halves(i32x16 v)
{
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
INLINE f32x16 powers_of_two(i32x16 exponents) { return (f32x16)((127 + exponents) << 23); }

/* What quants of each half of 8 blocks are: a lane each, both halves the same in `unit`. */
struct half_scales {
    f32x16 unit, factor; /* of a block; what floats are multiplied with */
    i32x16 shifts;
};

/* The larger half's largest float becomes 127 quants and the other's more than 63; but where that is little smaller, its
 * own becomes 127, and the larger half's more than 100: what both round away is least so. What is not finite makes the unit
 * so; quants are 0 where the largest is below 2^-100, for the inverse of what is far smaller is no number.
 * Args: magnitudes: the bits of each half's largest |x|, which are in order as integers: infinity, then NaN last. */
INLINE struct half_scales scales_of_halves(i32x16 magnitudes)
{
    const i32x16 others = swap_halves(magnitudes);
    const i32x16 larger = larger_of(magnitudes, others), smaller = smaller_of(magnitudes, others);
    const f32x16 other = (f32x16)smaller, twice = 2 * other, top = (f32x16)larger;
    const f32x16 most = vector_select((top < twice) & (2 * top * top > 5 * other * other), twice, top);
    const f32x16 inverse = vector_select(most >= splat(0x1p-100f), 127.0f / most, splat(0));
    /* The exponent of a quotient of floats, rounded down, is the difference of their bits without mantissas. */
    const i32x16 halvings = smaller_of(((i32x16)most - smaller) >> 23, splat_int(MAX_SHIFT));
    const i32x16 shifts = halvings & (magnitudes == larger); /* 0 where both are as large */
    return (struct half_scales){ most * (1.0f / 127) * powers_of_two(-halvings),
                                 inverse * powers_of_two(halvings - shifts), shifts };
}

/* Each 16 floats' largest magnitude, as bits, a lane each. Args: count: of 16 floats. */
INLINE i32x16 magnitudes_of(const float *x, const int count)
{
    i32x16 v[16];
    for (int i = 0; i < 16; i++) v[i] = i < count ? (i32x16)vector_abs(load_f32(x + 16 * i)) : splat_int(0);
    return fold_lanes(v, 0);
}

/* Rounds each 16 floats times their factor to quants. Returns the sums of these, a lane each, of `count` lanes. */
INLINE i32x16 round_floats(const float *x, f32x16 factor, const int count, i8x16 quants[16])
{
    i32x16 v[16];
    float factors[16] __attribute__((aligned(64)));
    store_f32(factors, factor);
    for (int i = 0; i < 16; i++)
        v[i] = i < count ? (i32x16)(load_f32(x + 16 * i) * splat(factors[i]) + ROUNDING) : splat_int(0);
    for (int i = 0; i < count; i++) quants[i] = __builtin_convertvector(v[i], i8x16);
    return (i32x16)((u32x16)fold_lanes(v, 1) - 16 * (uint32_t)bits_of_float(ROUNDING));
}

/* Args: x: 32 floats for each of `count` blocks. stride: blocks from one to the next. */
INLINE void quantize_blocks(const float *x, struct q8_block *blocks, const size_t stride, const int count)
{
    const struct half_scales scales = scales_of_halves(magnitudes_of(x, 2 * count));
    i8x16 quants[16];
    const i32x16 sums = round_floats(x, scales.factor, 2 * count, quants);
    /* Sums in units: exact, as that of both is, below 2^23. */
    const f32x16 own = to_f32(sums) * powers_of_two(scales.shifts), both = own + (f32x16)swap_halves((i32x16)own);
    struct {
        float units[16], scaled_sums[16];
        int32_t shifts[16], sums[16];
    } all;
    store_f32(all.units, scales.unit);
    store_f32(all.scaled_sums, scales.unit * both);
    store_f32(all.shifts, (f32x16)scales.shifts);
    store_f32(all.sums, (f32x16)(-128 * sums));
    for (int i = 0; i < count; i++) {
        struct q8_block *block = blocks + (size_t)i * stride;
        __builtin_memcpy(block->quants, quants + 2 * i, sizeof block->quants);
        block->unit = all.units[2 * i];
        __builtin_memcpy(block->shifts, all.shifts + 2 * i, sizeof block->shifts);
        __builtin_memcpy(block->sums, all.sums + 2 * i, sizeof block->sums);
        block->scaled_sum = all.scaled_sums[2 * i];
    }
}

/* Of any number of tokens, 32 floats each. */
INLINE void quantize_tokens(const float values[][32], struct q8_block *blocks, const size_t stride, int32_t tokens)
{
    int32_t t = 0;
    for (; t + BLOCKS_AT_ONCE <= tokens; t += BLOCKS_AT_ONCE)
        quantize_blocks(values[t], blocks + (size_t)t * stride, stride, BLOCKS_AT_ONCE);
    for (; t + 2 <= tokens; t += 2) quantize_blocks(values[t], blocks + (size_t)t * stride, stride, 2);
    if (t < tokens) quantize_blocks(values[t], blocks + (size_t)t * stride, stride, 1);
}

/* Each 16's largest float becomes 64 to 127 quants, the superblock's largest 127, as far as SUPER_SHIFT allows. What is not
 * finite makes the unit so; quants are 0 where the largest is below 2^-100. */
INLINE void quantize_superblock(const float *x, struct q8_superblock *out)
{
    const i32x16 magnitudes = magnitudes_of(x, 16);
    const int32_t largest = horizontal_max_int(magnitudes);
    const float top = float_of_bits(largest), inverse = top >= 0x1p-100f ? 127.0f / top : 0;
    const i32x16 halvings = smaller_of((largest - magnitudes) >> 23, splat_int(SUPER_SHIFT));
    const i32x16 shifts = SUPER_SHIFT - halvings;
    i8x16 quants[16];
    const i32x16 sums = round_floats(x, inverse * powers_of_two(halvings), 16, quants);
    const i32x16 in_units = (i32x16)((u32x16)sums << (u32x16)shifts), both = in_units + swap_halves(in_units);
    const i16x16 twos = __builtin_convertvector((in_units + 1) >> 1, i16x16);
    const i32x8 of_blocks = __builtin_shufflevector(both, both, 0, 2, 4, 6, 8, 10, 12, 14);
    const i16x8 fours = __builtin_convertvector((of_blocks + 2) >> 2, i16x8);
    out->unit = top * (1.0f / 127) * (1.0f / (1 << SUPER_SHIFT));
    struct {
        int32_t shifts[16], sums[16];
        float of_blocks[16];
    } all;
    store_f32(all.shifts, (f32x16)shifts);
    store_f32(all.sums, (f32x16)(-128 * sums));
    store_f32(all.of_blocks, to_f32(both));
    for (int b = 0; b < 8; b++) {
        __builtin_memcpy(out->blocks[b].shifts, all.shifts + 2 * b, sizeof out->blocks[b].shifts);
        __builtin_memcpy(out->blocks[b].sums, all.sums + 2 * b, sizeof out->blocks[b].sums);
        out->blocks[b].sum = all.of_blocks[2 * b];
        __builtin_memcpy(out->blocks[b].quants, quants + 2 * b, sizeof out->blocks[b].quants);
    }
    __builtin_memcpy(out->part_twos, &twos, sizeof out->part_twos);
    __builtin_memcpy(out->block_fours, &fours, sizeof out->block_fours);
}

/* Columns from `first` on of a row, no more than COLUMNS_AT_ONCE. Args: columns: a multiple of 32, or of 256. */
INLINE void quantize_columns(const float *x, void *row, const int32_t first, const int32_t columns)
{
    if (OUT_SUPER)
        quantize_superblock(x, (struct q8_superblock *)row + first / 256);
    else
        quantize_blocks(x, (struct q8_block *)row + first / 32, 1, columns / 32);
}

/* Runs `body`, which uses `first` and `count`, for all columns in turn, COLUMNS_AT_ONCE of them and those that are left. */
#define FOR_COLUMNS(columns, first, count, body)                                                                       \
    do {                                                                                                               \
        int32_t first = 0;                                                                                             \
        for (const int32_t count = COLUMNS_AT_ONCE; first + count <= (columns); first += count) body;                  \
        const int32_t count = (columns) % COLUMNS_AT_ONCE;                                                             \
        if (count) body;                                                                                               \
    } while (0)

/* Args: columns: a multiple of 32, or of 256. */
INLINE void quantize_row(const float *x, void *row, const int32_t columns)
{
    FOR_COLUMNS(columns, first, count, quantize_columns(x + first, row, first, count));
}
#endif
