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
INLINE void activate_half(f32x16 gate[TILE_TOKENS], f32x16 up[TILE_TOKENS], const float *bias, const float *scales,
                          int half, int tokens, float values[][32])
{
    for (int t = 0; t < tokens; t++) {
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

INLINE void gate_up_tokens(const uint8_t *tiles, const char *x, char *out, const float *bias, const float *scales,
                           const int tokens, int groups, const int together)
{
    float values[TILE_TOKENS][32] __attribute__((aligned(64)));
    if (tokens < 8) { /* in the order of memory, which is what few tokens wait for */
        f32x16 sums[4][TILE_TOKENS];
        for (int i = 0; i < 4; i++) multiply_tile(tiles + (size_t)i * TILE_BYTES, x, tokens, 1, 1, sums[i]);
        for (int half = 0; half < 2; half++)
            activate_half(sums[half], sums[2 + half], bias, scales, half, tokens, values);
    } else {
        f32x16 gate[TILE_TOKENS], up[TILE_TOKENS];
        for (int half = 0; half < 2; half++) {
            const uint8_t *tile = tiles + (size_t)half * TILE_BYTES;
            multiply_pair(tile, tile + 2 * TILE_BYTES, x, tokens, groups, together, gate, up);
            activate_half(gate, up, bias, scales, half, tokens * groups, values);
        }
    }
    if (OUT_Q8) {
        const int count = int_min(tokens, BLOCKS_AT_ONCE);
        for (int t = 0; t < tokens * groups; t += count)
            quantize_blocks(values[t], (struct q8_block *)out + (size_t)t * (ROWS / 32), ROWS / 32, count);
        return;
    }
    for (int t = 0; t < tokens * groups; t++)
        __builtin_memcpy((float *)out + (size_t)t * ROWS, values[t], sizeof values[t]);
}

/* An item, of the neighbouring tokens from `t` on, `tokens` excluded. */
static void gate_up_item(void *const *arguments, int32_t item, int32_t t, int32_t tokens)
{
    const size_t out_bytes = OUT_Q8 ? sizeof(struct q8_block) : 32 * sizeof(float), stride = out_bytes * (ROWS / 32);
    const uint8_t *tiles = (const uint8_t *)arguments[0] + 4 * (size_t)item * TILE_BYTES;
    const char *x = (const char *)arguments[1];
    char *out = (char *)arguments[2] + item * out_bytes;
    const float *bias = HAS_BIAS ? (const float *)arguments[3] + 32 * item : 0;
    const float *scales = (const float *)arguments[4];
    while (TILE_TOKENS > 8 && tokens - t >= 16) {
        const int groups = int_min(TILE_TOKENS, tokens - t) / GROUP_TOKENS;
        gate_up_tokens(tiles, x + t * (size_t)ACTIVATION_BYTES, out + t * stride, bias, scales, GROUP_TOKENS, groups,
                       8);
        t += GROUP_TOKENS * groups;
    }
    for (; t + 8 <= tokens; t += 8)
        gate_up_tokens(tiles, x + t * (size_t)ACTIVATION_BYTES, out + t * stride, bias, scales, 8, 1, 1);
    if (tokens - t >= 4) {
        gate_up_tokens(tiles, x + t * (size_t)ACTIVATION_BYTES, out + t * stride, bias, scales, 4, 1, 1);
        t += 4;
    }
    const char *rest = x + t * (size_t)ACTIVATION_BYTES;
    out += t * stride;
    if (tokens - t == 3) gate_up_tokens(tiles, rest, out, bias, scales, 3, 1, 1);
    if (tokens - t == 2) gate_up_tokens(tiles, rest, out, bias, scales, 2, 1, 1);
    if (tokens - t == 1) gate_up_tokens(tiles, rest, out, bias, scales, 1, 1, 1);
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
