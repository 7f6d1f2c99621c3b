/* gemm.h for quantized weights and int8 activations. Constants as there, and those of matrix.h. */
#include "weights_quantized.h"
#include "matrix.h"

#define UNIT_CHUNKS (UNIT_BLOCKS / 2)
#define PAIRS 128 /* a chunk is this many blocks of weights, and as many of activations */
#define TAKES_WEIGHTS(thread) (GEMM_WAVES * WAVE_SIZE == PAIRS || (thread) < PAIRS)
#define TAKES_ACTIVATIONS(thread) (GEMM_WAVES * WAVE_SIZE == PAIRS || (thread) >= PAIRS)

typedef const GLOBAL_MEMORY struct q8_block *activation_pointer;
#define ACTIVATION_ROW BLOCKS

#define SECOND (2 * NUM_MINIMA - 2) /* where minima and sums of second halves begin, of columns 16..31 */

struct stage {
    alignas(16) int8_t weights[64][STRIDE], x[64][STRIDE];
    float scales[2][NUM_SCALES][64], minima[2 * NUM_MINIMA][64];
    float x_scales[2][2][64], x_scaled[2 * NUM_MINIMA][64]; /* by slot */
};

/* What a thread carries from memory to LDS: one block of weights, one of activations, or both. */
struct fetched {
    struct raw_block weights;
    i32x4 x[3];
};

/* Neighbouring threads take, of weights, the rows of the two tiles, then the next block; of activations the blocks of a
 * token, then the next token. */
INLINE void fetch(weight_pointer tile, uint32_t second, activation_pointer x, int32_t count, int32_t unit, int32_t part,
                  struct fetched *next)
{
    const int32_t pair = thread_index() % PAIRS, chunk = unit * UNIT_CHUNKS + part;
    const bool alone = BLOCKS % 2 && chunk == BLOCKS / 2;
    if (TAKES_WEIGHTS(thread_index())) {
        const uint32_t lane = (uint32_t)pair % 32, origin = pair / 32 % 2 ? second : 0, p = (uint32_t)pair / 64;
        weight_pointer base = tile + (size_t)unit * UNIT_BYTES;
        if (!alone)
            load_block(base, origin, lane, (uint32_t)part, p, false, &next->weights);
        else if (BLOCKS % 2)
            load_block(base, origin, lane, 0, 0, true, &next->weights);
    }
    if (TAKES_ACTIVATIONS(thread_index())) {
        const int32_t token = int_min(pair / 2, count - 1), b = alone ? 2 * chunk : 2 * chunk + pair % 2;
        const GLOBAL_MEMORY i32x4 *block =
            (const GLOBAL_MEMORY i32x4 *)(x + (size_t)ROW_OF_TOKEN(token) * ACTIVATION_ROW + b);
        UNROLL_FOR (int i = 0; i < 3; i++) next->x[i] = block[i];
    }
}

INLINE void store_weights(const struct raw_block *raw, struct stage *stage, int32_t row, int32_t p)
{
    struct block block;
    unpack_block(raw, &block);
    const int32_t top = (int32_t)0x80808080, offset = OFFSET * 0x01010101;
    UNROLL_FOR (int v = 0; v < 8; v++) /* four signed bytes: none borrows from the next */
        if (OFFSET != 0) block.quants[v] = ((block.quants[v] | top) - offset) ^ top;
    UNROLL_FOR (int half = 0; half < 2; half++) {
        const int32_t *q = block.quants + 4 * half;
        *(i32x4 *)(stage->weights[row] + 32 * p + 16 * half) = i32x4{ q[0], q[1], q[2], q[3] };
    }
    UNROLL_FOR (int i = 0; i < NUM_SCALES; i++) stage->scales[p][i][row] = block.scale[i];
    if (HAS_MINIMUM) stage->minima[p][row] = block.minimum[0];
    if (NUM_MINIMA == 2) stage->minima[SECOND + p][row] = block.minimum[NUM_MINIMA - 1];
}

/* The slot of a token: where token_of_slot leads back. */
INLINE int32_t slot_of_token(int32_t token)
{
#if defined(MATRIX_WMMA_GFX11)
    return token / 16 * 16 + token % 2 * 8 + token % 16 / 2;
#else
    return token;
#endif
}

INLINE void store_fetched(const struct fetched *next, struct stage *stage, int32_t chunk)
{
    const int32_t pair = thread_index() % PAIRS;
    if (TAKES_WEIGHTS(thread_index())) store_weights(&next->weights, stage, pair % 64, pair / 64);
    if (TAKES_ACTIVATIONS(thread_index())) {
        const int32_t token = pair / 2, p = pair % 2, slot = slot_of_token(token);
        *(i32x4 *)(stage->x[token] + 32 * p) = next->x[0];
        *(i32x4 *)(stage->x[token] + 32 * p + 16) = next->x[1];
        stage->x_scales[p][0][slot] = from_bits(next->x[2][0]);
        stage->x_scales[p][1][slot] = from_bits(next->x[2][1]);
        if (NUM_MINIMA == 2) { /* sums of the halves, int16 in a dword */
            const int32_t sums = next->x[2][2];
            stage->x_scaled[p][slot] = from_bits(next->x[2][0]) * (float)(int16_t)sums;
            stage->x_scaled[SECOND + p][slot] = from_bits(next->x[2][1]) * (float)(sums >> 16);
        } else if (HAS_MINIMUM) {
            stage->x_scaled[p][slot] = from_bits(next->x[2][3]);
        }
    }
}

INLINE void multiply_block(const struct stage *stage, const int p, int32_t row0, int32_t token0,
                           float sums[LANE_ROWS][LANE_TOKENS])
{
    const int8_t *w = stage->weights[row0] + 32 * p, *x = stage->x[token0] + 32 * p;
    UNROLL_FOR (int i = 0; i < LANE_ROWS; i++) {
        const int32_t row = row0 + lane_row(i);
        const float scale0 = stage->scales[p][0][row], scale1 = stage->scales[p][NUM_SCALES - 1][row];
        const float minimum0 = HAS_MINIMUM ? stage->minima[p][row] : 0.0f;
        const float minimum1 = NUM_MINIMA == 2 ? stage->minima[SECOND + p][row] : 0.0f;
        SCHEDULING_FENCE();
        UNROLL_FOR (int t = 0; t < LANE_TOKENS; t += RUN) {
            int32_t dots0[RUN], dots1[RUN];
            multiply_run(w, x, i, t, dots0);
            multiply_run(w + 16, x + 16, i, t, dots1);
            UNROLL_FOR (int n = 0; n < RUN; n++) {
                if (n % 4 == 0) SCHEDULING_FENCE();
                const int32_t slot = token0 + lane_slot(t + n);
                sums[i][t + n] = add_block(sums[i][t + n], dots0[n], dots1[n], stage->x_scales[p][0][slot],
                                           stage->x_scales[p][1][slot], HAS_MINIMUM ? stage->x_scaled[p][slot] : 0.0f,
                                           NUM_MINIMA == 2 ? stage->x_scaled[SECOND + p][slot] : 0.0f, scale0, scale1,
                                           minimum0, minimum1);
            }
        }
    }
}

INLINE void multiply_chunk(const struct stage *stage, int32_t chunk, int32_t row0, int32_t token0,
                           float sums[LANE_ROWS][LANE_TOKENS])
{
    multiply_block(stage, 0, row0, token0, sums);
    if (BLOCKS % 2 == 0 || chunk != BLOCKS / 2) multiply_block(stage, 1, row0, token0, sums);
}
