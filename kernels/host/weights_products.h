/* Products of quantized weights and int8 activations, a tile of 16 rows at a time; what they are summed to is told by
 * weights_blocks.h or weights_superblocks.h. Part of weights_quantized.h.
 *
 * Blocks of columns come in order, with one accumulator a row, in spans of 8: neither the order of a sum nor its bits depend
 * on how many tokens are multiplied, nor on how many blocks are unpacked before they are.
 */

/* The dot of 16 columns begins with this, so that weights may be lifted. */
INLINE i32x16 begin_dot(struct activation_block x, int half, const int lift)
{
    return splat_int(lift == 128 ? x.sums[half] : (x.sums[half] >> 7) * lift);
}

/* Adds a block's products to the sums of `tokens` tokens. Args: x: the first one's span. b: the block in it. alone: whether
 * the weights were unpacked for one token. */
INLINE void multiply_block(const u8x64 w[8], const struct block_scales *s, const activations *x, int b,
                           const int tokens, const int alone, partial *sums)
{
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const activations *own = x + (size_t)t * ROW_ACTIVATIONS;
        const struct activation_block a = block_of(own, b);
        i32x16 dots[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            dots[half] = begin_dot(a, half, LIFT_OF(alone));
            for (int v = 4 * half; v < 4 * half + 4; v++) dots[half] = DOT(dots[half], w[v], a.quants + 4 * v);
            dots[half] = shift_lanes(dots[half], a.shifts[half]);
        }
        sums[t] = add_products(sums[t], dots, s, own, b, alone);
    }
}

/* Asks for what is read some KiB after a block. Processors do that by themselves where little is computed between two lines;
 * for several tokens it takes as long to read a block as to multiply it, unless both go on at once. The second-level cache
 * is asked, for activations fill the first, whose own reading ahead keeps up but for superblocks. Faster with one request,
 * of the first, are two tokens, with other types, and superblocks where vectors are narrow and products take longer. */
INLINE void prefetch_after(const uint8_t *block, const int tokens)
{
    for (int at = 0; at < BLOCK_BYTES; at += 64) {
        if (SUPER_SCALE_BYTES ? MORE_TOKENS == 8 : tokens == 2) {
            __builtin_prefetch(block + 4096 + at, 0, 3);
            continue;
        }
        __builtin_prefetch(block + 8192 + at, 0, 2);
        if (SUPER_SCALE_BYTES) __builtin_prefetch(block + 2048 + at, 0, 3);
    }
}

#if HAS_PANELS
#include "weights_panels.h"
#elif PAIRED_TILES
#include "weights_pairs.h"
#endif

/* One tile's products with a few tokens; a block is multiplied as it is read. */
INLINE void multiply_few(const uint8_t *tile, const activations *x, const int tokens, f32x16 *sums)
{
    const int blocks = COLUMNS / 32;
    f32x16 total[FEW_TOKENS]; /* like what it is made of, it stays in registers */
    partial own[FEW_TOKENS];
    struct span_scales all;
    if (tokens > 1) ALIGN_STACK();
    for (int t = 0; t < tokens; t++) total[t] = splat(0);
    for (int block = 0; block < blocks; block++) {
        const int b = block % SUMMED_BLOCKS;
        u8x64 w[8];
        struct block_scales s;
        if (b == 0) unpack_span(tile, block, &all);
        for (int t = 0; t < tokens && b == 0; t++) own[t] = begin_span(total[t]);
        /* AMD's processors read ahead over pages of 4 KiB where the first line of some blocks is asked for again with each:
         * Zen 4 reads 1.6 times as fast. */
        if (!SUPER_SCALE_BYTES) __builtin_prefetch(tile + block_offset(block & ~7));
        if (tokens > 1) prefetch_after(tile + block_offset(block), tokens);
        unpack_weights(tile, block, w, &s, tokens == 1);
        unpack_minima(tile, block, &all);
        for (int v = 0; v < 8 && tokens == FEW_TOKENS; v++) HOLD(w[v]);
        multiply_block(w, &s, x, b, tokens, tokens == 1, own);
        if (b + 1 < SUMMED_BLOCKS) continue;
        for (int t = 0; t < tokens; t++) total[t] = end_span(own[t], total[t], &all, x + (size_t)t * ROW_ACTIVATIONS);
        x += SPAN_ACTIVATIONS;
    }
    for (int t = 0; t < tokens; t++) sums[t] = total[t];
}

FORM_OF(1)
#if FEW_FORMS
FORM_OF(2)
FORM_OF(3)
FORM_OF(4)
FORM_OF(8)
#endif

/* The same of several tokens, whose sums lie in memory: weights stay in registers, for all of them. */
APART void multiply_several(const uint8_t *tile, const activations *x, int tokens, f32x16 *sums)
{
    const int blocks = COLUMNS / 32, fours = tokens / 4 * 4, rest = tokens - fours;
    partial own[SEVERAL_TOKENS];
    struct span_scales all;
    for (int t = 0; t < tokens; t++) sums[t] = splat(0);
    for (int block = 0; block < blocks; block++) {
        const int b = block % SUMMED_BLOCKS;
        u8x64 w[8];
        struct block_scales s;
        if (b == 0) unpack_span(tile, block, &all);
        for (int t = 0; t < tokens && b == 0; t++) own[t] = begin_span(sums[t]);
        prefetch_after(tile + block_offset(block), SEVERAL_TOKENS);
        unpack_weights(tile, block, w, &s, 0);
        unpack_minima(tile, block, &all);
        for (int v = 0; v < 8; v++) HOLD(w[v]);
#pragma GCC unroll 1
        for (int t = 0; t < fours; t += 4) multiply_block(w, &s, x + (size_t)t * ROW_ACTIVATIONS, b, 4, 0, own + t);
        const activations *last = x + (size_t)fours * ROW_ACTIVATIONS;
        if (rest == 1) multiply_block(w, &s, last, b, 1, 0, own + fours);
        if (rest == 2) multiply_block(w, &s, last, b, 2, 0, own + fours);
        if (rest == 3) multiply_block(w, &s, last, b, 3, 0, own + fours);
        if (b + 1 < SUMMED_BLOCKS) continue;
        for (int t = 0; t < tokens; t++) sums[t] = end_span(own[t], sums[t], &all, x + (size_t)t * ROW_ACTIVATIONS);
        x += SPAN_ACTIVATIONS;
    }
}

/* One tile: sums[t][r] = sum over columns of weight[r] * activation[t], of as many tokens as `tokens_at_once` says. */
INLINE void multiply_tile(const uint8_t *tile, const void *rows, int tokens, f32x16 *sums)
{
    const activations *x = (const activations *)rows;
#if HAS_PANELS
    if (tokens >= PANEL_TOKENS) {
        for (int t = 0; t < tokens; t++) sums[t] = splat(0);
        multiply_panels(tile, x, tokens / PANEL_TOKENS, sums);
        return;
    }
#endif
    switch (tokens) {
        CASE_OF(1);
#if FEW_FORMS
        CASE_OF(2);
        CASE_OF(3);
        CASE_OF(4);
        CASE_OF(8);
#endif
    default:
        multiply_several(tile, x, tokens, sums);
    }
}

/* Two tiles, of as many tokens as `paired_tokens` says. Args: after: bytes from a tile to what is multiplied next. */
INLINE void multiply_pair(const uint8_t *first, const uint8_t *second, const void *rows, int tokens, size_t after,
                          f32x16 *first_sums, f32x16 *second_sums)
{
#if PAIRED_TILES
    multiply_tiles(first, second, (const activations *)rows, tokens, after, first_sums, second_sums);
#else
    (void)first, (void)second, (void)rows, (void)tokens, (void)after, (void)first_sums, (void)second_sums;
#endif
}
