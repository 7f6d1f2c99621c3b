/* gemv.h for float weights and float32 activations: columns of a unit in order, one fused multiply-add each.
 * Constants as there. */
#include "weights_float.h"

#define LANE_TILES (ROW_TILES * 32 / WAVE_SIZE)

typedef const CONSTANT_MEMORY float *activation_pointer;
#define ACTIVATION_ROW COLUMNS

/* Columns of one unit of the tiles, and from `x` on. */
INLINE void multiply_unit(const weight_pointer *units, uint32_t origin, uint32_t lane, activation_pointer x,
                          const int columns, float sums[LANE_TILES][TOKENS])
{
    const int ahead = TOKENS < 4 ? TOKENS : 4;
    UNROLL_FOR (int p = 0; p * PIECE < columns; p++) {
        float w[LANE_TILES][PIECE];
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) unpack_piece(load_piece(units[i] + p * 512, origin, lane), w[i]);
        UNROLL_FOR (int t = 0; t < TOKENS; t++) {
            UNROLL_FOR (int i = 0; i < LANE_TILES; i++) READ_AFTER(x, sums[i][(t + TOKENS - ahead) % TOKENS]);
            UNROLL_FOR (int c = 0; c < PIECE && p * PIECE + c < columns; c++)
                UNROLL_FOR (int i = 0; i < LANE_TILES; i++)
                    sums[i][t] = float_fma(w[i][c], x[t * ACTIVATION_ROW + p * PIECE + c], sums[i][t]);
        }
    }
}

/* The sums of units slice, slice + SLICES, ... of the row in `lane` of each tile, for each token. */
INLINE void multiply_slice(const weight_pointer *tiles, uint32_t origin, uint32_t lane, activation_pointer x,
                           int32_t slice, float sums[LANE_TILES][TOKENS])
{
    const int32_t units = COLUMNS / 64;
    weight_pointer from[LANE_TILES];
    NO_UNROLL_FOR (int32_t u = slice; u < units; u += SLICES) {
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) from[i] = tiles[i] + (size_t)u * (UNIT_PIECES * 512);
        multiply_unit(from, origin, lane, x + u * 64, 64, sums);
    }
    if (COLUMNS % 64 && slice == units % SLICES) {
        UNROLL_FOR (int i = 0; i < LANE_TILES; i++) from[i] = tiles[i] + (size_t)units * (UNIT_PIECES * 512);
        multiply_unit(from, origin, lane, x + units * 64, COLUMNS % 64, sums);
    }
}
