/* Many tokens: what gemv.h does, bit for bit, 64 rows by 64 tokens a workgroup.
 *
 * Constants and arguments as in gemv.h, but ROW_TILES and TOKENS. Grid: x = row tiles / 2, y = tokens / 64; GEMM_WAVES
 * waves. A chunk of 64 columns of weights and activations at a time goes to LDS (gemm_quantized.h, gemm_float.h); a
 * wave takes 32 rows by WAVE_TOKENS tokens. The chunks come slice after slice, each slice summed on its own.
 */
#ifdef QUANT_BITS
#include "gemm_quantized.h"
#else
#include "gemm_float.h"
#endif
#include "epilogue.h"

#define THREADS (GEMM_WAVES * WAVE_SIZE)
#define NUM_TILES (GATE_UP ? ROWS / 16 : (ROWS + 31) / 32)
#define CHUNKS ((COLUMNS + 63) / 64)
#define UNITS ((CHUNKS + UNIT_CHUNKS - 1) / UNIT_CHUNKS)

union shared {
    struct stage stage;
    float values[64][64 + 1]; /* [token][row] of GATE_UP's epilogue */
};

struct totals {
    float slice[LANE_ROWS][LANE_TOKENS], all[LANE_ROWS][LANE_TOKENS];
};

INLINE void begin_slice(struct totals *sums)
{
    UNROLL_FOR (int i = 0; i < LANE_ROWS; i++)
        UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++) sums->slice[i][t] = 0;
}

INLINE void end_slice(struct totals *sums, int32_t slice)
{
    UNROLL_FOR (int i = 0; i < LANE_ROWS; i++)
        UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++)
            sums->all[i][t] = slice ? sums->all[i][t] + sums->slice[i][t] : sums->slice[i][t];
    begin_slice(sums);
}

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
    begin_slice(&sums);
    struct fetched next;
    int32_t slice = 0, unit = 0, part = 0;
    fetch(tile, second, x, count, 0, 0, &next);
    NO_UNROLL_FOR (int32_t n = 0; n < CHUNKS; n++) {
        const int32_t chunk = unit * UNIT_CHUNKS + part, now = slice;
        store_fetched(&next, &lds.stage, chunk);
        __syncthreads();
        if (++part == UNIT_CHUNKS || unit * UNIT_CHUNKS + part == CHUNKS) {
            part = 0;
            unit += SLICES;
            if (unit >= UNITS) unit = ++slice;
        }
        if (n + 1 < CHUNKS) fetch(tile, second, x, count, unit, part, &next);
        if (token0 < count) multiply_chunk(&lds.stage, chunk, row0, token0, sums.slice);
        if (slice != now || n + 1 == CHUNKS) end_slice(&sums, now);
        __syncthreads();
    }
#if GATE_UP
    store_totals(&lds, &sums, row0, token0, first, count, a2, a3, a4);
#else
    store_totals(&sums, row0, token0, first, count, a2, a3, a4);
#endif
}
