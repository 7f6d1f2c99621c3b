/* Packings of quantized weights, "rows16": 16 rows side by side, 32 columns a block.
 *
 * Lane r of a 64-byte vector is row r: its 4 bytes are 4 neighbouring columns, what one int8 dot
 * instruction takes. A block of 32 columns is 8 such vectors (columns 4v .. 4v+3). Packed by
 * compiler/packing.py, whose layouts these functions mirror:
 *   nibbles   4 x 64 bytes: low halves are vectors 0..3, high halves vectors 4..7
 *   fifth     64 bytes: bit v of a byte belongs to vector v
 *   sixth     2 x 64 bytes: bits 2v, 2v+1 of the first belong to vector v, of the second to v+4
 *   third     3 x 64 bytes: bits 0..2 and 4..6 of each are two vectors, of the first 0 and 1; bits 3 of all three
 *             are bits 2, 1, 0 of vector 6, bits 7 those of vector 7
 *   second    2 x 64 bytes of low bits alone
 *   first     64 bytes: bit v of a byte belongs to vector v
 */
#include "vector.h"

#define NUM_MINIMA (HAS_MINIMUM ? NUM_SCALES : 1)

struct block_scales {
    f32x16 scale[2];   /* of columns 0..15 and 16..31; equal where the type has one for 32 */
    f32x16 minimum[NUM_MINIMA]; /* added: weight = scale * quant + minimum */
};

/* Where the numbers of 32 columns of a token lie. */
struct activation_block {
    const int8_t *quants;
    const int32_t *shifts, *sums; /* of halves */
};

INLINE u8x64 shift_right(u8x64 v, int n) { return (u8x64)((u16x32)v >> n); }
INLINE u8x64 shift_left(u8x64 v, int n) { return (u8x64)((u16x32)v << n); }

INLINE void unpack_nibbles(const uint8_t *p, u8x64 w[8])
{
    for (int v = 0; v < 4; v++) {
        const u8x64 both = load_bytes(p + 64 * v);
        w[v] = both & 15;
        w[v + 4] = shift_right(both, 4) & 15;
    }
}
INLINE void unpack_fifth(const uint8_t *p, u8x64 w[8])
{
    const u8x64 bits = load_bytes(p);
    for (int v = 0; v < 4; v++) {
        w[v] |= shift_left(bits, 4 - v) & 16;
        w[v + 4] |= shift_right(bits, v) & 16;
    }
}
INLINE void unpack_sixth(const uint8_t *p, u8x64 w[8])
{
    const u8x64 first = load_bytes(p), second = load_bytes(p + 64);
    w[0] |= shift_left(first, 4) & 48;
    w[1] |= shift_left(first, 2) & 48;
    w[2] |= first & 48;
    w[3] |= shift_right(first, 2) & 48;
    w[4] |= shift_left(second, 4) & 48;
    w[5] |= shift_left(second, 2) & 48;
    w[6] |= second & 48;
    w[7] |= shift_right(second, 2) & 48;
}
INLINE void unpack_first(const uint8_t *p, u8x64 w[8])
{
    const u8x64 bits = load_bytes(p);
    for (int v = 0; v < 8; v++) w[v] = shift_right(bits, v) & 1;
}
INLINE void unpack_second(const uint8_t *p, u8x64 w[8])
{
    for (int v = 0; v < 8; v++) w[v] = shift_right(load_bytes(p + 64 * (v / 4)), 2 * (v % 4)) & 3;
}
INLINE void unpack_third(const uint8_t *p, u8x64 w[8])
{
    const u8x64 a = load_bytes(p), b = load_bytes(p + 64), c = load_bytes(p + 128);
    const u8x64 rest = (a & 0x88) | (shift_right(b, 1) & 0x44) | (shift_right(c, 2) & 0x22);
    w[0] = a & 7;
    w[1] = shift_right(a, 4) & 7;
    w[2] = b & 7;
    w[3] = shift_right(b, 4) & 7;
    w[4] = c & 7;
    w[5] = shift_right(c, 4) & 7;
    w[6] = shift_right(rest, 1) & 7;
    w[7] = shift_right(rest, 5) & 7;
}

/* The format's macros are those of its row in artifacts/formats.py. */
#ifdef CODES_0
#define HAS_CODEBOOK 1
#else
#define HAS_CODEBOOK 0
#define CODES_0 0
#define CODES_1 0
#define CODES_2 0
#define CODES_3 0
#define CODE_OFFSET 0
#endif
#ifndef SCALE_HALVINGS
#define SCALE_HALVINGS 0
#endif
#ifndef SCALES_ODD_GROUPS
#define SCALES_ODD_GROUPS 0
#endif
/* Whether activations are superblocks: with weights of superblocks they always are. */
#ifndef X_SUPER
#define X_SUPER (SUPER_SCALE_BYTES > 0)
#endif
#define QUANT_BYTES (64 * QUANT_BITS)
#define BLOCK_BYTES (QUANT_BYTES + 16 * SCALE_BYTES)
#define SPAN_BYTES (16 * SUPER_SCALE_BYTES + 8 * BLOCK_BYTES) /* of SPAN_BLOCKS, or of a superblock */
/* Weights are lifted, none is negative then: by 128 where there is no signed dot product, else by as much as they need,
 * but those of a wide codebook and of 8 bits, for there dot_unsigned takes nothing above 128. */
#if !SIGNED_DOT && !HAS_MINIMUM
#define LIFT 128
#elif HAS_CODEBOOK
#define LIFT CODE_OFFSET
#else
#define LIFT QUANT_OFFSET
#endif
#define QUANTS_SIGNED (!LIFT && (HAS_CODEBOOK || QUANT_BITS == 8))
#if QUANTS_SIGNED
#define DOT dot_signed
#else
#define DOT dot_unsigned
#endif
/* To lift weights that have an offset does not pay for one token alone. */
#define LIFT_OF(alone) ((alone) && QUANT_OFFSET > 0 ? QUANT_OFFSET : LIFT)
/* Whether quants are so small that products with the scales of their 16 columns fit a byte too. */
#define QUANTS_SCALED (QUANT_BITS == 2 && HAS_MINIMUM && NUM_SCALES == 2)
/* Whether a tile alone is as fast as two: with a minimum, products of floats bind as soon as loads do. */
#define QUANTS_ALONE (NUM_SCALES == 1 && HAS_MINIMUM && !SUPER_SCALE_BYTES)
/* Whether enough tokens are multiplied as panels, or else by two tiles at once. */
#define HAS_PANELS (PANEL_TOKENS == 16 && !QUANTS_SCALED)
#define PAIRED_TILES (MORE_TOKENS > 8 && !HAS_PANELS && !QUANTS_ALONE)
#define PAIRS_PAY 1
/* Tokens that are multiplied at once: few or several by a tile as it is read, most as panels; by two tiles, for which weights
 * are unpacked to memory, as many as make that worth it, in fours. */
#define FEW_TOKENS 8
#define SEVERAL_TOKENS 16
#define TILE_TOKENS (HAS_PANELS ? PANELS * PANEL_TOKENS : SEVERAL_TOKENS)
#define PAIR_TOKENS MORE_TOKENS
#define PAIR_UNIT 4
#define LEAST_PAIR_TOKENS (SEVERAL_TOKENS + PAIR_UNIT)
#define SPAN_BLOCKS 8

INLINE void unpack_quants(const uint8_t *p, u8x64 w[8], const int lift)
{
#if QUANT_BITS == 8
    for (int v = 0; v < 8; v++) w[v] = load_bytes(p + 64 * v);
#elif QUANT_BITS == 3
    unpack_third(p, w);
#elif QUANT_BITS == 2
    unpack_second(p, w);
#elif QUANT_BITS == 1
    unpack_first(p, w);
#else
    unpack_nibbles(p, w);
    if (QUANT_BITS == 5) unpack_fifth(p + 256, w);
    if (QUANT_BITS == 6) unpack_sixth(p + 256, w);
#endif
    for (int v = 0; v < 8 && !HAS_CODEBOOK && lift != QUANT_OFFSET; v++) w[v] += (uint8_t)(lift - QUANT_OFFSET);
}

/* The entries of the codebook that the quants name, lifted. Bit g of a row's `groups` belongs to columns 8g .. 8g+7. */
INLINE void look_up_quants(u8x64 w[8], i32x16 groups, const int lift)
{
    const int32_t words[4] = { CODES_0, CODES_1, CODES_2, CODES_3 };
    u8x16 codes;
    __builtin_memcpy(&codes, words, sizeof codes);
    codes += (uint8_t)lift;
    const u8x64 repeated = (u8x64)(groups * 0x01010101);
    for (int v = 0; v < 8; v++) {
        if (SCALES_ODD_GROUPS) w[v] |= (v < 6 ? shift_left(repeated, 2 - v / 2) : shift_right(repeated, 1)) & 4;
        w[v] = look_up(codes, w[v]);
    }
}

#if SUPER_SCALE_BYTES
/* 256 columns: scale (and minimum) of the superblock, float16[16] each, then 8 times { scales; quants }. Scales are
 * u8[16] and minima u8[16]; or of columns 0..15 [16] and of columns 16..31 [16] the scale and the minimum in a byte's
 * low and high half, or an int8 scale; or one int8 scale; or none; or as `SCALES` of artifacts/formats.py says. */
#define TILE_BYTES (COLUMNS / 256 * SPAN_BYTES)
INLINE size_t block_offset(int block)
{
    return (size_t)(block >> 3) * SPAN_BYTES + 16 * SUPER_SCALE_BYTES + (size_t)(block & 7) * BLOCK_BYTES;
}
INLINE void unpack_block(const uint8_t *tile, int block, u8x64 w[8], struct block_scales *s, const int lift)
{
    const uint8_t *super = tile + (size_t)(block >> 3) * SPAN_BYTES, *p = tile + block_offset(block);
    unpack_quants(p + 16 * SCALE_BYTES, w, lift);
#if NUM_MINIMA == 2
    const f32x16 d = load_f16(super), m = load_f16(super + 32);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const i32x16 both = load_u8(p + 16 * half);
        s->scale[half] = d * to_f32(both & 15);
        s->minimum[half] = -(m * to_f32(both >> 4));
    }
#elif HAS_MINIMUM
    s->scale[0] = s->scale[1] = load_f16(super) * to_f32(load_u8(p));
    s->minimum[0] = -(load_f16(super + 32) * to_f32(load_u8(p + 16)));
#else
    const f32x16 d = SCALE_HALVINGS ? load_f16(super) * (1.0f / (1 << SCALE_HALVINGS)) : load_f16(super);
#if defined(SCALES_ODD) || SCALES_ODD_GROUPS
    const i32x16 both = load_u8(p);
    s->scale[0] = d * to_f32((both & 15) * 2 + 1);
    s->scale[1] = d * to_f32((both >> 4) * 2 + 1);
#else
    s->scale[0] = SCALE_BYTES ? d * to_f32(load_i8(p)) : d;
    s->scale[1] = SCALE_BYTES == 2 ? d * to_f32(load_i8(p + 16)) : s->scale[0];
#endif
    s->minimum[0] = splat(0);
#endif
    if (HAS_CODEBOOK) look_up_quants(w, SCALES_ODD_GROUPS ? load_u8(p + 16) : splat_int(0), lift);
}
#else
/* { quants, float16 scales [16] (, float16 minima [16]) }, or the scales as `SCALES` says. */
#define TILE_BYTES (COLUMNS / 32 * BLOCK_BYTES)
INLINE size_t block_offset(int block) { return (size_t)block * BLOCK_BYTES; }
INLINE void unpack_block(const uint8_t *tile, int block, u8x64 w[8], struct block_scales *s, const int lift)
{
    const uint8_t *p = tile + block_offset(block);
    unpack_quants(p, w, lift);
#if defined(SCALES_E4M3)
    for (int half = 0; half < 2; half++) s->scale[half] = load_e4m3(p + QUANT_BYTES + 16 * half) * 0.5f;
#elif defined(SCALES_BF16)
    s->scale[0] = s->scale[1] = load_bf16(p + QUANT_BYTES);
#else
    s->scale[0] = s->scale[1] = load_f16(p + QUANT_BYTES);
#endif
    s->minimum[0] = HAS_MINIMUM ? load_f16(p + QUANT_BYTES + 32 * HAS_MINIMUM) : splat(0);
    if (HAS_CODEBOOK) look_up_quants(w, splat_int(0), lift);
}
#endif

/* One row as floats, for the embedding: exactly scale * quant + minimum, as GGUF defines it. */
INLINE void dequantize_row(const uint8_t *tile, const int lane, float *out)
{
    for (int b = 0; b < COLUMNS / 32; b++) {
        u8x64 w[8];
        struct block_scales s;
        unpack_block(tile, b, w, &s, LIFT);
        for (int c = 0; c < 32; c++) {
            const uint8_t byte = w[c / 4][4 * lane + c % 4];
            const int32_t quant = QUANTS_SIGNED ? (int8_t)byte : byte - LIFT, half = NUM_SCALES == 2 ? c / 16 : 0;
            const float product = s.scale[half][lane] * (float)quant;
            out[32 * b + c] = HAS_MINIMUM ? product + s.minimum[half % NUM_MINIMA][lane] : product;
        }
    }
}

#if X_SUPER
#include "weights_superblocks.h"
#else
#include "weights_blocks.h"
#endif
#include "weights_products.h"
