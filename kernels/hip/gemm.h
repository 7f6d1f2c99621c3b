/* Many tokens: what gemv.h does, bit for bit, 64 rows by 64 tokens a workgroup.
 *
 * Constants and arguments as in gemv.h, but ROW_TILES and TOKENS. Grid: x = row tiles / 2, y = tokens / 64; GEMM_WAVES
 * waves.
 */
#include "gemm_tile.h"
#include "epilogue.h"

#define NUM_TILES (GATE_UP ? ROWS / 16 : (ROWS + 31) / 32)

union shared {
    struct stage stage;
    float values[64][64 + 1]; /* [token][row] of GATE_UP's epilogue */
};

#if GATE_UP
INLINE void store_totals(union shared *lds, const struct totals *sums, int32_t row0, int32_t token0, int32_t first,
                         int32_t count, void *out, const void *bias, const void *scales)
{
    UNROLL_FOR (int i = 0; i < LANE_ROWS; i++)
        UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++)
            lds->values[token0 + token_of_slot(lane_slot(t))][row0 + lane_row(i)] = sums->all[i][t];
    __syncthreads();
    const int32_t lane = thread_index() % 32;
    for (int32_t t = thread_index() / 32; t < int_min(64, count); t += THREADS / 32)
        store_gate_up(gated(lds->values[t][lane], lds->values[t][32 + lane], bias, scales, group_x() * 32 + lane), out,
                      first + t, group_x());
}
#else
INLINE void store_totals(const struct totals *sums, int32_t row0, int32_t token0, int32_t first, int32_t count,
                         void *out, const void *bias, const void *scale)
{
    UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++) {
        const int32_t token = token0 + token_of_slot(lane_slot(t));
        UNROLL_FOR (int i = 0; i < LANE_ROWS; i++) {
            const int32_t row = group_x() * 64 + row0 + lane_row(i);
            if (token < count && row < ROWS) store_sum(sums->all[i][t], out, bias, scale, first + token, row);
        }
    }
}
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ union shared lds;
    const int32_t first = group_y() * 64, count = COUNT(STEP) - first;
    if (count <= 0) return;
    weight_pointer tile = (weight_pointer)a0 + (size_t)group_x() * (2 * TILE_BYTES);
    /* Past the last tile: the last one again, not stored. */
    const uint32_t second = group_x() * 2 + 1 < NUM_TILES ? TILE_BYTES : 0;
    activation_pointer x = (activation_pointer)a1 + (size_t)first * ACTIVATION_ROW;
    const int32_t row0 = wave_index() % 2 * 32, token0 = wave_index() / 2 * WAVE_TOKENS;
    struct totals sums;
    multiply_tiles(&lds.stage, tile, second, x, count, row0, token0, &sums);
#if GATE_UP
    store_totals(&lds, &sums, row0, token0, first, count, a2, a3, a4);
#else
    store_totals(&sums, row0, token0, first, count, a2, a3, a4);
#endif
}
