/* out[t, OUT_OFFSET + j * ROWS + r] = sum over c of weight[e * ROWS + r, c] * x[c], e the number of the j-th expert that
 * token t goes to; times the expert's scale, times its weight for the token, plus its bias, where there are such.
 *
 * Constants: EXPERTS, USED, ROWS (of an expert), COLUMNS, SLICES, ROW_TILES (of 32 rows), TILE_GROUPS (of ROW_TILES, that
 * an expert may lie in), EACH (1: a token has a row of x for each of its experts), OUT_STRIDE, OUT_OFFSET,
 * HAS_BIAS, HAS_SCALE, WEIGHTED. BY_SLOT (where it is given): a token goes to all experts, in their order, and nothing
 * routes.
 * Arguments: weights, activations, routed float32[T, 2 * USED], out float32[T, OUT_STRIDE], bias
 * float32[EXPERTS * ROWS], scale float32[EXPERTS].
 * Grid: x = USED * TILE_GROUPS, y tokens; SLICES waves. The sums are those of gemv.h.
 */
#define TOKENS 1
#ifdef QUANT_BITS
#include "gemv_quantized.h"
#else
#include "gemv_float.h"
#endif

#include "expert_epilogue.h"

#define THREADS (SLICES * WAVE_SIZE)
#define GROUP_ROWS (32 * ROW_TILES)

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[SLICES][GROUP_ROWS];
    const int32_t token = group_y(), slot = group_x() / TILE_GROUPS;
    if (token >= STEP->num_tokens) return;
    const CONSTANT_MEMORY float *routed = (const CONSTANT_MEMORY float *)a2 + (size_t)token * (2 * USED);
    const int32_t expert = BY_SLOT ? slot : (int32_t)routed[USED + slot];
    const int32_t row = expert * ROWS, last = (row + ROWS - 1) / 32;
    const int32_t tile = row / 32 + group_x() % TILE_GROUPS * ROW_TILES;
    if (tile > last) return;
    const int32_t slice = wave_index(), lane = thread_index() % 32, side = lane_index() / 32;
    weight_pointer tiles[LANE_TILES];
    UNROLL_FOR (int i = 0; i < LANE_TILES; i++) /* past the last tile: the last one again, not stored */
        tiles[i] = (weight_pointer)a0 + (size_t)int_min(tile + i, last) * TILE_BYTES;
    const uint32_t origin = side && tile < last ? TILE_BYTES : 0;
    activation_pointer x = (activation_pointer)a1 + (size_t)(EACH ? token * USED + slot : token) * ACTIVATION_ROW;
    float sums[LANE_TILES][TOKENS];
    UNROLL_FOR (int i = 0; i < LANE_TILES; i++) sums[i][0] = 0;
    multiply_slice(tiles, origin, (uint32_t)lane, x, slice, sums);
    UNROLL_FOR (int i = 0; i < LANE_TILES; i++) partial[slice][32 * (i + side) + lane] = sums[i][0];
    __syncthreads();
    for (int32_t i = thread_index(); i < GROUP_ROWS; i += THREADS) {
        const int32_t r = 32 * tile + i - row;
        if (r < 0 || r >= ROWS) continue;
        float total = partial[0][i];
        UNROLL_FOR (int s = 1; s < SLICES; s++) total += partial[s][i];
        store_product(total, token * USED + slot, expert, r, a2, a3, a4, a5);
    }
}
