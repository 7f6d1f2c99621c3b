/* gemm.h for float weights and float32 activations: fused multiply-adds, columns in order. Constants as there. */
#include "weights_float.h"
#include "matrix.h"

#define UNIT_CHUNKS 1
#define FLOAT_STRIDE 68 /* floats of a row of 64 in LDS, as STRIDE of matrix.h */

typedef const GLOBAL_MEMORY float *activation_pointer;
#define ACTIVATION_ROW COLUMNS

struct stage {
    alignas(16) float weights[64][FLOAT_STRIDE], x[64][FLOAT_STRIDE];
};

/* Tiles are loaded when they are stored: nothing is carried over. */
struct fetched {
    weight_pointer tile;
    uint32_t second;
    activation_pointer x;
    int32_t count;
};

INLINE void fetch(weight_pointer tile, uint32_t second, activation_pointer x, int32_t count, int32_t unit, int32_t part,
                  struct fetched *next)
{
    next->tile = tile;
    next->second = second;
    next->x = x;
    next->count = count;
}

INLINE int32_t chunk_width(int32_t chunk) { return COLUMNS % 64 ? int_min(64, COLUMNS - 64 * chunk) : 64; }

INLINE void store_fetched(const struct fetched *next, struct stage *stage, int32_t chunk)
{
    const int32_t threads = GEMM_WAVES * WAVE_SIZE, width = chunk_width(chunk);
    for (int32_t i = thread_index(); i < 64 * (64 / PIECE); i += threads) {
        const int32_t row = i % 64, piece = i / 64;
        if (piece * PIECE >= width) break;
        float w[PIECE];
        const uint32_t origin = (row / 32 ? next->second : 0) + (uint32_t)piece * 512;
        unpack_piece(load_piece(next->tile + (size_t)chunk * (UNIT_PIECES * 512), origin, (uint32_t)row % 32), w);
        UNROLL_FOR (int c = 0; c < PIECE; c += 4)
            *(f32x4 *)(stage->weights[row] + piece * PIECE + c) = f32x4{ w[c], w[c + 1], w[c + 2], w[c + 3] };
    }
    for (int32_t i = thread_index(); i < 64 * 16; i += threads) {
        const int32_t token = i / 16, c = i % 16 * 4;
        if (c >= width) continue;
        const size_t at = (size_t)ROW_OF_TOKEN(int_min(token, next->count - 1)) * ACTIVATION_ROW + 64 * chunk + c;
#if COLUMNS % 4 /* rows begin at no multiple of four, and end within one */
        for (int32_t n = 0; n < 4; n++) stage->x[token][c + n] = c + n < width ? next->x[at + n] : 0.0f;
#else
        *(f32x4 *)(stage->x[token] + c) = *(const GLOBAL_MEMORY f32x4 *)(next->x + at);
#endif
    }
}

INLINE void multiply_chunk(const struct stage *stage, int32_t chunk, int32_t row0, int32_t token0,
                           float sums[LANE_ROWS][LANE_TOKENS])
{
    const int32_t width = chunk_width(chunk);
    NO_UNROLL_FOR (int32_t c = 0; c < width; c += 4) {
        f32x4 w[LANE_ROWS];
        UNROLL_FOR (int i = 0; i < LANE_ROWS; i++) w[i] = *(const f32x4 *)(stage->weights[row0 + lane_row(i)] + c);
        UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++) {
            if (t % 4 == 0) SCHEDULING_FENCE();
            const f32x4 x = *(const f32x4 *)(stage->x[token0 + lane_slot(t)] + c);
            UNROLL_FOR (int i = 0; i < LANE_ROWS; i++)
                UNROLL_FOR (int n = 0; n < 4; n++)
                    if (COLUMNS % 4 == 0 || c + n < width) sums[i][t] = float_fma(w[i][n], x[n], sums[i][t]);
        }
    }
}
