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

/* Of tokens from `t` on, which are `count`: two tiles where `paired`, or one. */
INLINE void multiply_tokens(void *const *arguments, int32_t item, int32_t t, int32_t count, const int paired)
{
    const uint8_t *tile = (const uint8_t *)arguments[0] + (size_t)item * TILE_BYTES;
    const char *x = (const char *)arguments[1] + t * (size_t)ACTIVATION_BYTES;
    float *out = (float *)arguments[2] + (size_t)t * OUT_STRIDE + OUT_OFFSET + 16 * item;
    const float *bias = HAS_BIAS ? (const float *)arguments[3] + 16 * item : 0;
    const float *scale = (const float *)arguments[4];
    const int32_t valid = ROWS - 16 * item;
    f32x16 first[MOST_TOKENS], second[MOST_TOKENS];
    if (paired)
        multiply_pair(tile, tile + TILE_BYTES, x, count, 2 * TILE_BYTES, first, second);
    else
        multiply_tile(tile, x, count, first);
    for (int i = 0; i < count; i++) {
        float *row = out + (size_t)i * OUT_STRIDE;
        store_row(row, bias, scale, first[i], int_min(16, valid));
        if (paired) store_row(row + 16, HAS_BIAS ? bias + 16 : 0, scale, second[i], int_min(16, valid - 16));
    }
}

/* One tile or two, of the neighbouring tokens from `t` on, `end` excluded. */
static void multiply_items(void *const *arguments, int32_t item, const int tiles, int32_t t, int32_t end)
{
    for (int32_t count; tiles == 2 && (count = paired_tokens(end - t)); t += count)
        multiply_tokens(arguments, item, t, count, 1);
    for (int32_t tile = item; tile < item + tiles; tile++)
        for (int32_t next = t, count; next < end; next += count) {
            count = tokens_at_once(end - next);
            multiply_tokens(arguments, tile, next, count, 0);
        }
}

static void matmul_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const int32_t count = COUNT(step);
    if (HAS_PANELS && count >= PANEL_TOKENS) begin_panels();
    for (int32_t item = begin, tiles; item < end; item += tiles) {
        tiles = paired_tokens(count) && item + 1 < end ? 2 : 1;
        for (int32_t i = 0, neighbours; i < count; i += neighbours) { /* which find tiles in the cache but the first */
            neighbours = neighbours_at(step, i, count);
            const int32_t t = made_row(step, i);
            multiply_items(arguments, item, tiles, t, t + neighbours);
        }
    }
    if (HAS_PANELS && count >= PANEL_TOKENS) end_panels();
}
EXPORT const struct kernel SYMBOL = { matmul_items, matmul_run };
