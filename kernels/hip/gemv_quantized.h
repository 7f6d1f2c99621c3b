/* gemv.h for quantized weights and int8 activations. Constants as there. */
#include "weights_quantized.h"

#define LANE_TILES (ROW_TILES * 32 / WAVE_SIZE)
/* Two chunks in flight where a single token leaves the registers for it. */
#if TOKENS == 1
#define CHUNK_FOR UNROLL_2_FOR
#else
#define CHUNK_FOR NO_UNROLL_FOR
#endif
#if TOKENS == 1 && !SUPER_BYTES
#define UNIT_FOR UNROLL_2_FOR
#else
#define UNIT_FOR NO_UNROLL_FOR
#endif

typedef const CONSTANT_MEMORY struct q8_block *activation_pointer;
#define ACTIVATION_ROW BLOCKS /* in elements of activation_pointer */

/* Block p of a chunk: of one unit of the tiles, and from `x` on. */
INLINE void multiply_block(const weight_pointer *units, uint32_t origin, uint32_t lane, int32_t part, int32_t p,
                           const bool alone, activation_pointer *x, float sums[LANE_TILES][TOKENS])
{
    struct block blocks[LANE_TILES];
    UNROLL_FOR (int i = 0; i < LANE_TILES; i++) {
        struct raw_block raw;
        load_block(units[i], origin, lane, (uint32_t)part, (uint32_t)p, alone, &raw);
        unpack_block(&raw, blocks + i);
    }
    UNROLL_FOR (int t = 0; t < TOKENS; t++) {
        UNROLL_FOR (int i = 0; i < LANE_TILES && TOKENS > 1; i++)
            READ_AFTER(*x, sums[i][(t + TOKENS - 2) % TOKENS]); /* two tokens ahead */
        activation_pointer a = *x + t * ACTIVATION_ROW + 2 * part + p;
        const CONSTANT_MEMORY int32_t *quants = (const CONSTANT_MEMORY int32_t *)a->quants;
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) {
            int32_t dot0 = -OFFSET * a->sums[0], dot1 = -OFFSET * a->sums[1];
            UNROLL_FOR (int v = 0; v < 4; v++) {
                dot0 = dot4(blocks[i].quants[v], quants[v], dot0);
                dot1 = dot4(blocks[i].quants[v + 4], quants[v + 4], dot1);
            }
            sums[i][t] = add_block(sums[i][t], dot0, dot1, a->scales[0], a->scales[1],
                                   NUM_MINIMA == 2 ? a->scales[0] * (float)a->sums[0] : a->scaled_sum,
                                   NUM_MINIMA == 2 ? a->scales[1] * (float)a->sums[1] : 0, blocks[i].scale[0],
                                   blocks[i].scale[1], blocks[i].minimum[0], blocks[i].minimum[NUM_MINIMA - 1]);
        }
    }
}

/* The sums of units slice, slice + SLICES, ... of the row in `lane` of each tile, for each token. */
INLINE void multiply_slice(const weight_pointer *tiles, uint32_t origin, uint32_t lane, activation_pointer x,
                           int32_t slice, float sums[LANE_TILES][TOKENS])
{
    const int32_t units = BLOCKS / UNIT_BLOCKS;
    weight_pointer from[LANE_TILES];
    UNIT_FOR (int32_t u = slice; u < units; u += SLICES) {
        activation_pointer blocks = x + u * UNIT_BLOCKS;
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) from[i] = tiles[i] + (size_t)u * UNIT_BYTES;
        CHUNK_FOR (int32_t part = 0; part < UNIT_BLOCKS / 2; part++)
            UNROLL_FOR (int32_t p = 0; p < 2; p++) multiply_block(from, origin, lane, part, p, false, &blocks, sums);
    }
    if (BLOCKS % UNIT_BLOCKS && slice == units % SLICES) {
        activation_pointer block = x + units * UNIT_BLOCKS;
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) from[i] = tiles[i] + (size_t)units * UNIT_BYTES;
        multiply_block(from, origin, lane, 0, 0, true, &block, sums);
    }
}
