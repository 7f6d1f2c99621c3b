/* The rows of a column of state that a lane of scan.h holds: of each 4 * PARTS rows four neighbours. */
#ifndef ROCMFORGE_SCAN_ROWS_H
#define ROCMFORGE_SCAN_ROWS_H
#include "state.h"

#define ROWS ((STATE + 4 * PARTS - 1) / (4 * PARTS) * 4)

struct lane_place {
    int32_t head, column, part; /* the column counts through all heads */
};
/* What a token brings to a lane: a delta's value takes what the state gives for its key off, at its rate. */
struct token_rows {
    float key[ROWS], query[ROWS], value, rate, added;
};

INLINE int32_t row_at(int r, int32_t part) { return r / 4 * (4 * PARTS) + 4 * part + r % 4; }
/* A lane's elements of STATE neighbours, 0 past the last. */
INLINE void load_rows(float values[ROWS], const GLOBAL_MEMORY float *p, int32_t part)
{
    UNROLL_FOR (int r = 0; r < ROWS; r++)
        values[r] = STATE % (4 * PARTS) == 0 || row_at(r, part) < STATE ? p[row_at(r, part)] : 0.0f;
}
INLINE void store_rows(GLOBAL_MEMORY float *p, const float values[ROWS], int32_t part)
{
    UNROLL_FOR (int r = 0; r < ROWS; r++)
        if (STATE % (4 * PARTS) == 0 || row_at(r, part) < STATE) p[row_at(r, part)] = values[r];
}
/* The sum over the lanes of a column, in each of them. */
INLINE float sum_of_parts(float x)
{
    if (PARTS > 8) x += shuffle_xor<8>(x);
    if (PARTS > 4) x += shuffle_xor<4>(x);
    x += shuffle_xor<2>(x);
    return x + shuffle_xor<1>(x);
}
INLINE float from_lane(float x, int32_t lane) { return from_bits(__builtin_amdgcn_ds_bpermute(4 * lane, to_bits(x))); }
/* An input's row, from the column on that it begins with. */
INLINE const GLOBAL_MEMORY float *row_of(const void *input, int32_t t, int32_t stride, int32_t first)
{
    return (const GLOBAL_MEMORY float *)input + (size_t)t * stride + first;
}
#endif
