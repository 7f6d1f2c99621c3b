/* out[t, OUT_OFFSET + r] (= or +=) sum over c of weight[r, c] * activation[t, c] (+ bias[r]).
 *
 * Constants: ROWS, COLUMNS, ACTIVATION_BYTES (of a token), X_SUPER (1: int8 superblocks, else blocks), OUT_STRIDE,
 * OUT_OFFSET, HAS_BIAS, ACCUMULATE, AT_LOGITS_ROWS (1: only the rows of which logits are asked); AT_OUTPUT_ROWS where only
 * those are made of which outputs are read. Where a product is scaled also HAS_SCALE (by a weight, before the bias) and
 * PRODUCT_SCALE (by a number, after it).
 * Arguments: weights, activations, out float32[T, OUT_STRIDE], bias float32[ROWS], scale float32[1].
 * A work item is one tile of 16 rows, for all tokens.
 */
#include "weights.h"

#ifndef HAS_SCALE
#define HAS_SCALE 0
#endif
#ifndef PRODUCT_SCALE
#define PRODUCT_SCALE 1.0f
#endif

static int32_t matmul_items(const struct step *step) { return COUNT(step) ? (ROWS + 15) / 16 : 0; }

INLINE void store_row(float *out, const float *bias, const float *scale, f32x16 sum, int32_t valid)
{
    if (HAS_SCALE) sum *= *scale;
    if (valid == 16) {
        if (HAS_BIAS) sum += load_f32(bias);
        if (PRODUCT_SCALE != 1.0f) sum *= PRODUCT_SCALE;
        if (ACCUMULATE) sum += load_f32(out);
        store_f32(out, sum);
        return;
    }
    for (int32_t r = 0; r < valid; r++) {
        float value = sum[r];
        if (HAS_BIAS) value += bias[r];
        if (PRODUCT_SCALE != 1.0f) value *= PRODUCT_SCALE;
        out[r] = ACCUMULATE ? value + out[r] : value;
    }
}

INLINE void multiply_tokens(const uint8_t *tile, const char *activations, float *out, const float *bias,
                            const float *scale, int32_t valid, const int tokens, int groups, const int together)
{
    f32x16 sums[TILE_TOKENS];
    multiply_tile(tile, activations, tokens, groups, together, sums);
    for (int t = 0; t < tokens * groups; t++) store_row(out + (size_t)t * OUT_STRIDE, bias, scale, sums[t], valid);
}

/* Two tiles, of whole eights of the tokens from `t` on; returns the first that is left. */
INLINE int32_t multiply_two(void *const *arguments, int32_t item, int32_t t, int32_t tokens)
{
    const uint8_t *tile = (const uint8_t *)arguments[0] + (size_t)item * TILE_BYTES;
    const char *x = (const char *)arguments[1];
    float *out = (float *)arguments[2] + OUT_OFFSET + 16 * item;
    const float *bias = HAS_BIAS ? (const float *)arguments[3] + 16 * item : 0;
    const float *scale = (const float *)arguments[4];
    const int32_t valid = int_min(16, ROWS - 16 * (item + 1));
    const int32_t least = TILE_TOKENS > 8 ? 16 : 8;
    while (tokens - t >= least) {
        const int count = int_min(TILE_TOKENS, tokens - t) / 8 * 8;
        f32x16 first[TILE_TOKENS], second[TILE_TOKENS];
        multiply_pair(tile, tile + TILE_BYTES, x + t * (size_t)ACTIVATION_BYTES, 8, count / 8, TILE_TOKENS > 8 ? 8 : 1,
                      first, second);
        for (int i = 0; i < count; i++) {
            float *row = out + (size_t)(t + i) * OUT_STRIDE;
            store_row(row, bias, scale, first[i], 16);
            store_row(row + 16, HAS_BIAS ? bias + 16 : 0, scale, second[i], valid);
        }
        t += count;
    }
    return t;
}

/* A tile, of the tokens from `t` on, `tokens` excluded. */
static void multiply_item(void *const *arguments, int32_t item, int32_t t, int32_t tokens)
{
    const uint8_t *tile = (const uint8_t *)arguments[0] + (size_t)item * TILE_BYTES;
    const char *x = (const char *)arguments[1];
    float *out = (float *)arguments[2] + OUT_OFFSET + 16 * item;
    const float *bias = HAS_BIAS ? (const float *)arguments[3] + 16 * item : 0;
    const float *scale = (const float *)arguments[4];
    const int32_t valid = int_min(16, ROWS - 16 * item);
    while (TILE_TOKENS > 8 && tokens - t >= 16) {
        const int groups = int_min(TILE_TOKENS, tokens - t) / GROUP_TOKENS;
        multiply_tokens(tile, x + t * (size_t)ACTIVATION_BYTES, out + (size_t)t * OUT_STRIDE, bias, scale, valid,
                        GROUP_TOKENS, groups, 8);
        t += GROUP_TOKENS * groups;
    }
    for (; t + 8 <= tokens; t += 8)
        multiply_tokens(tile, x + t * (size_t)ACTIVATION_BYTES, out + (size_t)t * OUT_STRIDE, bias, scale, valid, 8, 1,
                        1);
    if (tokens - t >= 4) {
        multiply_tokens(tile, x + t * (size_t)ACTIVATION_BYTES, out + (size_t)t * OUT_STRIDE, bias, scale, valid, 4, 1,
                        1);
        t += 4;
    }
    const char *rest = x + t * (size_t)ACTIVATION_BYTES;
    out += (size_t)t * OUT_STRIDE;
    if (tokens - t == 3) multiply_tokens(tile, rest, out, bias, scale, valid, 3, 1, 1);
    if (tokens - t == 2) multiply_tokens(tile, rest, out, bias, scale, valid, 2, 1, 1);
    if (tokens - t == 1) multiply_tokens(tile, rest, out, bias, scale, valid, 1, 1, 1);
}

static void matmul_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const int32_t count = COUNT(step);
    if (HAS_PANELS && count >= PANEL_TOKENS) begin_panels();
    for (int32_t item = begin, tiles; item < end; item += tiles) {
        tiles = PAIRED_TILES && PAIRS_PAY && item + 1 < end ? 2 : 1;
        for (int32_t i = 0, neighbours; i < count; i += neighbours) { /* which find tiles in the cache but the first */
            neighbours = neighbours_at(step, i, count);
            const int32_t t = made_row(step, i), last = t + neighbours;
            const int32_t rest = tiles == 2 ? multiply_two(arguments, item, t, last) : t;
            for (int32_t tile = item; tile < item + tiles; tile++) multiply_item(arguments, tile, rest, last);
        }
    }
    if (HAS_PANELS && count >= PANEL_TOKENS) end_panels();
}
EXPORT const struct kernel SYMBOL = { matmul_items, matmul_run };
