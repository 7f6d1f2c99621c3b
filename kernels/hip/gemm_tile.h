/* The sums of 64 rows by 64 tokens, for gemm.h and expert_gemm.h; constants as in gemm.h.
 *
 * A chunk of 64 columns of weights and activations at a time goes to LDS (gemm_quantized.h, gemm_float.h); a wave takes
 * 32 rows by WAVE_TOKENS tokens. The chunks come slice after slice, each slice summed on its own.
 */
#ifndef ROW_OF_TOKEN
#define ROW_OF_TOKEN(token) (token) /* the row of activations that a token of the 64 has */
#endif
#ifdef QUANT_BITS
#include "gemm_quantized.h"
#else
#include "gemm_float.h"
#endif

#define THREADS (GEMM_WAVES * WAVE_SIZE)
#define CHUNKS ((COLUMNS + 63) / 64)
#define UNITS ((CHUNKS + UNIT_CHUNKS - 1) / UNIT_CHUNKS)

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

/* The sums of a wave's rows from `row0` on of the tile and of the one `second` bytes behind it, and of its tokens from
 * `token0` on. */
INLINE void multiply_tiles(struct stage *stage, weight_pointer tile, uint32_t second, activation_pointer x,
                           int32_t count, int32_t row0, int32_t token0, struct totals *sums)
{
    begin_slice(sums);
    struct fetched next;
    int32_t slice = 0, unit = 0, part = 0;
    fetch(tile, second, x, count, 0, 0, &next);
    NO_UNROLL_FOR (int32_t n = 0; n < CHUNKS; n++) {
        const int32_t chunk = unit * UNIT_CHUNKS + part, now = slice;
        store_fetched(&next, stage, chunk);
        __syncthreads();
        if (++part == UNIT_CHUNKS || unit * UNIT_CHUNKS + part == CHUNKS) {
            part = 0;
            unit += SLICES;
            if (unit >= UNITS) unit = ++slice;
        }
        if (n + 1 < CHUNKS) fetch(tile, second, x, count, unit, part, &next);
        if (token0 < count) multiply_chunk(stage, chunk, row0, token0, sums->slice);
        if (slice != now || n + 1 == CHUNKS) end_slice(sums, now);
        __syncthreads();
    }
}
