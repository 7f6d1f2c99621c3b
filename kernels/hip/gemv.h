/* Few tokens: out[t, OUT_OFFSET + r] (= or +=) sum over c of weight[r, c] * x[t, c] (+ bias[r]), or with GATE_UP
 * out[t, r] = activation(gate[r] . x[t]) * (up[r] . x[t]), each product with its bias.
 *
 * Constants: ROWS (GATE_UP: of each), COLUMNS, SLICES, ROW_TILES (of 32 rows; GATE_UP: 2), TOKENS (most that a
 * workgroup takes), AT_LOGITS_ROWS, GATE_UP, HAS_BIAS and either OUT_Q8 and ACTIVATION_<NAME> or OUT_STRIDE, OUT_OFFSET, ACCUMULATE; where a
 * product is scaled HAS_SCALE (by a weight, before the bias) or PRODUCT_SCALE (by a number, after it).
 * Arguments: weights, activations, out, bias float32[ROWS], scale float32[1]; GATE_UP: two of each.
 * Grid: x = row tiles / ROW_TILES, y = tokens / TOKENS; SLICES waves.
 *
 * The columns are cut into units; unit u belongs to slice u % SLICES, one wave. A lane keeps the sums of its row, or of
 * one row in each of two tiles; a wave of 64 lanes takes two tiles side by side. Activations are the same for all lanes
 * and come by scalar loads; rows past the last token's are read too (the arena has them) and go nowhere. A row's total
 * is slice 0 + slice 1 + ..., whatever the number of tokens.
 */
#ifdef QUANT_BITS
#include "gemv_quantized.h"
#else
#include "gemv_float.h"
#endif
#include "epilogue.h"

#define THREADS (SLICES * WAVE_SIZE)
#define GROUP_ROWS (32 * ROW_TILES)
#define NUM_TILES (GATE_UP ? ROWS / 16 : (ROWS + 31) / 32)

INLINE float sum_slices(const float *partial)
{
    float total = partial[0];
    UNROLL_FOR (int s = 1; s < SLICES; s++) total += partial[s * (TOKENS * GROUP_ROWS)];
    return total;
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[SLICES][TOKENS][GROUP_ROWS];
    const int32_t first = group_y() * TOKENS, count = COUNT(STEP) - first;
    if (count <= 0) return;
    const int32_t slice = wave_index(), lane = thread_index() % 32, side = lane_index() / 32;
    const int32_t tile = group_x() * ROW_TILES;
    weight_pointer tiles[LANE_TILES];
    UNROLL_FOR (int i = 0; i < LANE_TILES; i++) /* past the last tile: the last one again, not stored */
        tiles[i] = (weight_pointer)a0 + (size_t)int_min(tile + i, NUM_TILES - 1) * TILE_BYTES;
    const uint32_t origin = side && tile + 1 < NUM_TILES ? TILE_BYTES : 0;
    activation_pointer x = (activation_pointer)a1 + (size_t)first * ACTIVATION_ROW;
    float sums[LANE_TILES][TOKENS];
    UNROLL_FOR (int t = 0; t < TOKENS; t++)
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) sums[i][t] = 0;
    multiply_slice(tiles, origin, (uint32_t)lane, x, slice, sums);
    UNROLL_FOR (int t = 0; t < TOKENS; t++)
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) partial[slice][t][32 * (i + side) + lane] = sums[i][t];
    __syncthreads();
#if GATE_UP
    for (int32_t t = thread_index() / 32; t < int_min(TOKENS, count); t += THREADS / 32) {
        const float gate = sum_slices(&partial[0][t][lane]), up = sum_slices(&partial[0][t][32 + lane]);
        store_gate_up(gated(gate, up, a3, a4, group_x() * 32 + lane), a2, first + t, group_x());
    }
#else
    for (int32_t i = thread_index(); i < TOKENS * GROUP_ROWS; i += THREADS) {
        const int32_t t = i / GROUP_ROWS, row = group_x() * GROUP_ROWS + i % GROUP_ROWS;
        if (t < count && row < ROWS) store_sum(sum_slices(&partial[0][t][i % GROUP_ROWS]), a2, a3, a4, first + t, row);
    }
#endif
}
