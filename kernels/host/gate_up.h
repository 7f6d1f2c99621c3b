/* out[t, r] = activation(gate[r] . x[t]) * (up[r] . x[t]), each product times its scale, with its bias.
 *
 * Constants: ROWS (of each), COLUMNS, OUT_Q8 (1: int8 blocks, else float32), ACTIVATION_BYTES (of a token), X_SUPER (1: those
 * are int8 superblocks, else blocks), ACTIVATION_<NAME>, where there are some HAS_BIAS, HAS_SCALE, and AT_OUTPUT_ROWS where
 * only tokens are computed of which outputs are read.
 * Arguments: weights, activations, out, bias float32[2, ROWS], scales float32[2]. The weights hold two tiles of gate rows,
 * then the two tiles of the same up rows. A work item is 32 outputs, one int8 block, for all tokens.
 */
#include "activation.h"
#include "quantize_blocks.h"
#include "weights.h"

#ifndef HAS_BIAS
#define HAS_BIAS 0
#endif
#ifndef HAS_SCALE
#define HAS_SCALE 0
#endif

static int32_t gate_up_items(const struct step *step) { return OUTPUT_COUNT(step) ? ROWS / 32 : 0; }

/* Products of a half's 16 rows to outputs. */
INLINE void activate_half(f32x16 *gate, f32x16 *up, const float *bias, const float *scales, int half, int32_t tokens,
                          float values[][32])
{
    for (int32_t t = 0; t < tokens; t++) {
        if (HAS_SCALE) {
            gate[t] *= scales[0];
            up[t] *= scales[1];
        }
        if (HAS_BIAS) {
            gate[t] += load_f32(bias + 16 * half);
            up[t] += load_f32(bias + ROWS + 16 * half);
        }
        store_f32(values[t] + 16 * half, activation(gate[t]) * up[t]);
    }
}

/* An item's outputs, of `tokens` tokens. Args: paired: whether a gate's tile is multiplied with its up's. */
INLINE void gate_up_tokens(const uint8_t *tiles, const char *x, char *out, const float *bias, const float *scales,
                           int32_t tokens, const int paired)
{
    float values[MOST_TOKENS][32] __attribute__((aligned(64)));
    if (paired) {
        f32x16 gate[MOST_TOKENS], up[MOST_TOKENS];
        for (int half = 0; half < 2; half++) {
            const uint8_t *tile = tiles + (size_t)half * TILE_BYTES;
            const size_t after = half ? 3 * (size_t)TILE_BYTES : TILE_BYTES;
            multiply_pair(tile, tile + 2 * TILE_BYTES, x, tokens, after, gate, up);
            activate_half(gate, up, bias, scales, half, tokens, values);
        }
    } else { /* in the order of memory, which is what few tokens wait for */
        f32x16 sums[4][TILE_TOKENS];
        for (int i = 0; i < 4; i++) multiply_tile(tiles + (size_t)i * TILE_BYTES, x, tokens, sums[i]);
        for (int half = 0; half < 2; half++)
            activate_half(sums[half], sums[2 + half], bias, scales, half, tokens, values);
    }
    if (OUT_Q8) {
        quantize_tokens(values, (struct q8_block *)out, ROWS / 32, tokens);
        return;
    }
    for (int32_t t = 0; t < tokens; t++) __builtin_memcpy((float *)out + (size_t)t * ROWS, values[t], sizeof values[t]);
}

/* An item, of the neighbouring tokens from `t` on, `end` excluded. */
static void gate_up_item(void *const *arguments, int32_t item, int32_t t, int32_t end)
{
    const size_t out_bytes = OUT_Q8 ? sizeof(struct q8_block) : 32 * sizeof(float), stride = out_bytes * (ROWS / 32);
    const uint8_t *tiles = (const uint8_t *)arguments[0] + 4 * (size_t)item * TILE_BYTES;
    const char *x = (const char *)arguments[1];
    char *out = (char *)arguments[2] + item * out_bytes;
    const float *bias = HAS_BIAS ? (const float *)arguments[3] + 32 * item : 0;
    const float *scales = (const float *)arguments[4];
    for (int32_t count; (count = paired_tokens(end - t)); t += count)
        gate_up_tokens(tiles, x + t * (size_t)ACTIVATION_BYTES, out + t * stride, bias, scales, count, 1);
    for (int32_t count; t < end; t += count) {
        count = tokens_at_once(end - t);
        gate_up_tokens(tiles, x + t * (size_t)ACTIVATION_BYTES, out + t * stride, bias, scales, count, 0);
    }
}

static void gate_up_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const int32_t count = OUTPUT_COUNT(step);
    if (HAS_PANELS && count >= PANEL_TOKENS) begin_panels();
    for (int32_t item = begin; item < end; item++) {
        for (int32_t i = 0, neighbours; i < count; i += neighbours) {
            const int32_t t = made_row(step, i);
            neighbours = neighbours_at(step, i, count);
            gate_up_item(arguments, item, t, t + neighbours);
        }
    }
    if (HAS_PANELS && count >= PANEL_TOKENS) end_panels();
}
EXPORT const struct kernel SYMBOL = { gate_up_items, gate_up_run };
