/* Packings of quantized weights, "lanes32": rows in tiles of 32, lane r holds row r.
 * Packed by compiler/packing_lanes.py.
 *
 * A chunk is 64 columns, two blocks of 32; the last one of a row may be a single block. Of a chunk of n blocks:
 *   scales  [32 lanes][n blocks][SCALE_BYTES]   float16 scale (, float16 minimum); K types: a byte each, Q2_K: half a
 *                                               byte each; or as `SCALES` of artifacts/formats.py says
 *   quants  [n blocks][PIECES][32 lanes][16]    nibbles: dword j holds columns 4j .. 4j+3 in the low halves of its
 *                                               bytes, 16+4j .. 16+4j+3 in the high halves; Q8_0: piece 0 is columns
 *                                               0..15, piece 1 columns 16..31
 *           [32 lanes][n blocks][8]             2 or 3 bits: bits 2v, 2v+1 of byte b of dword i belong to column
 *                                               16i+4v+b
 *   high    [32 lanes][n blocks][HIGH_BYTES]    first, third or fifth bits: bit v of byte b belongs to column 4v+b
 *                                               Q6_K: two bits, as the low ones of Q3_K
 * K types, IQ types and ternary ones have 4 chunks a superblock of 256 columns, after its [32 lanes][4]: float16 scale
 * and minimum, or a float32 scale (float16 widened: so every load of a wave starts at a multiple of 128 bytes). Where
 * blocks have one byte of scales each, the 8 of a superblock come next, [32 lanes][8], and chunks have none.
 */
#include "prelude.h"

/* The format's macros are those of its row in artifacts/formats.py. */
#define PIECES (QUANT_BITS == 8 ? 2 : 1)
#define LOW_BYTES (QUANT_BITS == 1 ? 0 : QUANT_BITS < 4 ? 8 : 16 * PIECES)
#define HIGH_BYTES (QUANT_BITS == 8 || QUANT_BITS == 2 ? 0 : QUANT_BITS < 4 ? 4 : 4 * (QUANT_BITS - 4))
#if SCALE_BYTES == 1
#define SUPER_BYTES 12
#define CHUNK_SCALE_BYTES 0
#else
#define SUPER_BYTES (SUPER_SCALE_BYTES ? 4 : 0)
#define CHUNK_SCALE_BYTES SCALE_BYTES
#endif
#define NUM_MINIMA (HAS_MINIMUM ? NUM_SCALES : 1)
#ifdef CODES_0
#define HAS_CODEBOOK 1
#else
#define HAS_CODEBOOK 0
#define CODES_0 0
#define CODES_1 0
#define CODES_2 0
#define CODES_3 0
#endif
#ifndef SCALES_ODD_GROUPS
#define SCALES_ODD_GROUPS 0
#endif

#define BLOCKS (COLUMNS / 32)
#define BLOCK_BYTES (CHUNK_SCALE_BYTES + LOW_BYTES + HIGH_BYTES)
/* A row's sum is cut into units, which belong to slices in turn (gemv.h): a chunk, or a superblock. */
#define UNIT_BLOCKS (SUPER_SCALE_BYTES ? 8 : 2)
#define UNIT_BYTES (32 * (UNIT_BLOCKS * BLOCK_BYTES + SUPER_BYTES))
#define TILE_BYTES (32 * (BLOCKS * BLOCK_BYTES + BLOCKS / 8 * SUPER_BYTES))

typedef const GLOBAL_MEMORY uint8_t *weight_pointer;

struct raw_block {
    i32x4 quants[PIECES]; /* LOW_BYTES of it */
    int32_t scales, high[2], super;
};

/* Block p of a chunk of the row in `lane`. The unit begins at `base`, the same for all lanes, plus `origin`: so a load
 * takes its address from a scalar register pair, a vector register and an immediate.
 * Args: part: chunk of the unit; alone: it is the half chunk at the end of a row. */
INLINE void load_block(weight_pointer base, uint32_t origin, uint32_t lane, uint32_t part, uint32_t p, const bool alone,
                       struct raw_block *raw)
{
    const uint32_t n = alone ? 1 : 2;
    if (SUPER_BYTES) raw->super = *(const GLOBAL_MEMORY int32_t *)(base + (origin + lane * 4));
    if (SCALE_BYTES == 1) {
        const i32x2 all = *(const GLOBAL_MEMORY i32x2 *)(base + 128 + (origin + lane * 8));
        raw->scales = (int32_t)((uint32_t)(part / 2 ? all[1] : all[0]) >> (16 * (part % 2) + 8 * p));
    }
    base += 32 * SUPER_BYTES + part * (64 * BLOCK_BYTES);
    weight_pointer scales = base + (origin + lane * (n * CHUNK_SCALE_BYTES));
    if (CHUNK_SCALE_BYTES > 0 && alone) {
        raw->scales =
            SCALE_BYTES == 4 ? *(const GLOBAL_MEMORY int32_t *)scales : *(const GLOBAL_MEMORY uint16_t *)scales;
    } else if (CHUNK_SCALE_BYTES == 4) {
        const i32x2 both = *(const GLOBAL_MEMORY i32x2 *)scales;
        raw->scales = p ? both[1] : both[0];
    } else if (CHUNK_SCALE_BYTES) {
        raw->scales = *(const GLOBAL_MEMORY int32_t *)scales >> (16 * p);
    }
    base += n * (32 * CHUNK_SCALE_BYTES);
    if (LOW_BYTES == 8) { /* superblocks have no half chunk */
        const i32x4 both = *(const GLOBAL_MEMORY i32x4 *)(base + (origin + lane * 16));
        raw->quants[0][0] = p ? both[2] : both[0];
        raw->quants[0][1] = p ? both[3] : both[1];
    } else if (LOW_BYTES > 0) {
        UNROLL_FOR (uint32_t i = 0; i < PIECES; i++)
            raw->quants[i] = *(const GLOBAL_MEMORY i32x4 *)(base + (origin + lane * 16 + (p * PIECES + i) * 512));
    }
    weight_pointer high = base + n * (32 * LOW_BYTES) + (origin + lane * (n * HIGH_BYTES));
    if (HIGH_BYTES == 4 && alone) {
        raw->high[0] = *(const GLOBAL_MEMORY int32_t *)high;
    } else if (HIGH_BYTES == 4) {
        const i32x2 both = *(const GLOBAL_MEMORY i32x2 *)high;
        raw->high[0] = p ? both[1] : both[0];
    } else if (HIGH_BYTES == 8) { /* superblocks have no half chunk */
        const i32x4 both = *(const GLOBAL_MEMORY i32x4 *)high;
        raw->high[0] = p ? both[2] : both[0];
        raw->high[1] = p ? both[3] : both[1];
    }
}

/* weight = scale * quant + minimum; quants stand OFFSET too high, dword v holds columns 4v .. 4v+3. */
struct block {
    int32_t quants[8];
    float scale[2], minimum[NUM_MINIMA];
};
#define OFFSET (HAS_CODEBOOK ? 0 : QUANT_OFFSET)

INLINE void unpack_quants(const struct raw_block *raw, int32_t quants[8])
{
    if (QUANT_BITS == 1) {
        UNROLL_FOR (int v = 0; v < 8; v++) quants[v] = (int32_t)((uint32_t)raw->high[0] >> v & 0x01010101u);
        return;
    }
    if (QUANT_BITS == 2) {
        UNROLL_FOR (int v = 0; v < 8; v++)
            quants[v] = (int32_t)((uint32_t)raw->quants[0][v / 4] >> (2 * (v % 4)) & 0x03030303u);
        return;
    }
    if (QUANT_BITS == 3) {
        const uint32_t third = (uint32_t)raw->high[0];
        UNROLL_FOR (int v = 0; v < 8; v++) {
            const uint32_t pairs = (uint32_t)raw->quants[0][v / 4] >> (2 * (v % 4));
            quants[v] =
                (int32_t)((pairs & 0x03030303u) | ((v < 2 ? third << (2 - v) : third >> (v - 2)) & 0x04040404u));
        }
        return;
    }
    if (PIECES == 2) {
        UNROLL_FOR (int v = 0; v < 8; v++) quants[v] = raw->quants[v / 4 * (PIECES - 1)][v % 4];
        return;
    }
    UNROLL_FOR (int v = 0; v < 4; v++) {
        quants[v] = raw->quants[0][v] & 0x0f0f0f0f;
        quants[v + 4] = (int32_t)((uint32_t)raw->quants[0][v] >> 4) & 0x0f0f0f0f;
    }
    if (HIGH_BYTES == 4) {
        const uint32_t bits = (uint32_t)raw->high[0];
        UNROLL_FOR (int v = 0; v < 8; v++)
            quants[v] |= (int32_t)((v < 4 ? bits << (4 - v) : bits >> (v - 4)) & 0x10101010u);
    } else if (HIGH_BYTES == 8) {
        UNROLL_FOR (int v = 0; v < 8; v++) {
            const uint32_t bits = (uint32_t)raw->high[v / 4];
            quants[v] |= (int32_t)((v % 4 < 2 ? bits << (4 - 2 * (v % 4)) : bits >> (2 * (v % 4) - 4)) & 0x30303030u);
        }
    }
}

/* The entries of the codebook that four codes name. */
INLINE int32_t look_up(int32_t codes)
{
    if (QUANT_BITS < 4) return (int32_t)__builtin_amdgcn_perm((uint32_t)CODES_1, (uint32_t)CODES_0, (uint32_t)codes);
    const uint32_t eight = (uint32_t)codes & 0x07070707u, high = (uint32_t)codes >> 1 & 0x04040404u;
    const uint32_t first = __builtin_amdgcn_perm((uint32_t)CODES_1, (uint32_t)CODES_0, eight);
    const uint32_t second = __builtin_amdgcn_perm((uint32_t)CODES_3, (uint32_t)CODES_2, eight);
    return (int32_t)__builtin_amdgcn_perm(second, first, high | 0x03020100u);
}

INLINE void look_up_quants(int32_t scales, int32_t quants[8])
{
    UNROLL_FOR (int v = 0; v < 8; v++) {
        if (SCALES_ODD_GROUPS && scales >> (8 + v / 2) & 1) quants[v] |= 0x04040404;
        quants[v] = look_up(quants[v]);
    }
}

INLINE void unpack_block(const struct raw_block *raw, struct block *block)
{
    unpack_quants(raw, block->quants);
    if (HAS_CODEBOOK) look_up_quants(raw->scales, block->quants);
    const int32_t low = raw->scales & 255, high = raw->scales >> 8 & 255;
    block->minimum[0] = 0;
#if SUPER_SCALE_BYTES == 4 && NUM_SCALES == 2
    block->scale[0] = from_f16(raw->super) * (float)(low & 15);
    block->scale[1] = from_f16(raw->super) * (float)(high & 15);
    block->minimum[0] = -(from_f16(raw->super >> 16) * (float)(low >> 4));
    block->minimum[1] = -(from_f16(raw->super >> 16) * (float)(high >> 4));
    return;
#elif SUPER_SCALE_BYTES == 4
    block->scale[0] = from_f16(raw->super) * (float)low;
    block->minimum[0] = -(from_f16(raw->super >> 16) * (float)high);
#elif defined(SCALES_ODD) || SCALES_ODD_GROUPS
    block->scale[0] = from_bits(raw->super) * (float)(2 * (low & 15) + 1);
    block->scale[1] = from_bits(raw->super) * (float)(2 * (low >> 4) + 1);
    return;
#elif SUPER_SCALE_BYTES && SCALE_BYTES == 2
    block->scale[0] = from_bits(raw->super) * (float)(int8_t)low;
    block->scale[1] = from_bits(raw->super) * (float)(int8_t)high;
    return;
#elif SUPER_SCALE_BYTES
    block->scale[0] = SCALE_BYTES ? from_bits(raw->super) * (float)(int8_t)low : from_bits(raw->super);
#elif defined(SCALES_E4M3) /* shifted, a float16 whose exponent counts from another number */
    block->scale[0] = from_f16(low << 7) * 128.0f;
    block->scale[1] = from_f16(high << 7) * 128.0f;
    return;
#elif defined(SCALES_BF16)
    block->scale[0] = from_bits(raw->scales << 16);
#else
    block->scale[0] = from_f16(raw->scales);
    if (HAS_MINIMUM) block->minimum[0] = from_f16(raw->scales >> 16);
#endif
    (void)low;
    (void)high;
    block->scale[1] = block->scale[0];
}

/* Adds one block of 32 columns to a row's sum: exact in int32 for each half, then float32 in this order.
 * Args: x_scaled0, x_scaled1: sums of the activations, of both halves where these have minima of their own, else of
 * all in the first. */
INLINE float add_block(float sum, int32_t dot0, int32_t dot1, float x0, float x1, float x_scaled0, float x_scaled1,
                       float scale0, float scale1, float minimum0, float minimum1)
{
    const float half0 = (float)dot0 * x0, half1 = (float)dot1 * x1;
    if (NUM_SCALES == 2)
        sum = float_fma(half1, scale1, float_fma(half0, scale0, sum));
    else
        sum = float_fma(half0 + half1, scale0, sum);
    if (NUM_MINIMA == 2) return float_fma(minimum1, x_scaled1, float_fma(minimum0, x_scaled0, sum));
    return HAS_MINIMUM ? float_fma(minimum0, x_scaled0, sum) : sum;
}

/* embedding.h: the work items of a row, and the floats of one, exactly scale * quant + minimum as GGUF defines it. */
#define ROW_ITEMS BLOCKS
#define ITEM_COLUMNS 32

INLINE void dequantize_item(weight_pointer tile, int32_t lane, int32_t b, float out[32])
{
    struct raw_block raw;
    struct block block;
    const uint32_t unit = (uint32_t)b / UNIT_BLOCKS * UNIT_BYTES, part = (uint32_t)b % UNIT_BLOCKS / 2;
    if (BLOCKS % 2 && b == BLOCKS - 1)
        load_block(tile, unit, (uint32_t)lane, 0, 0, true, &raw);
    else
        load_block(tile + unit, 0, (uint32_t)lane, part, (uint32_t)b % 2, false, &raw);
    unpack_block(&raw, &block);
    UNROLL_FOR (int c = 0; c < 32; c++) {
        const int32_t byte = block.quants[c / 4] >> (8 * (c % 4));
        const int32_t quant = PIECES == 2 || HAS_CODEBOOK ? (int8_t)byte : (byte & 255) - OFFSET;
        const float product = block.scale[c / 16] * (float)quant;
        out[c] = HAS_MINIMUM ? product + block.minimum[NUM_MINIMA == 2 ? c / 16 : 0] : product;
    }
}
