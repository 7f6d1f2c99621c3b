/* What a work item of scan.h works on: LANES columns of a head's matrix; of mamba the states of LANES heads. */
#ifndef ROCMFORGE_SCAN_BLOCK_H
#define ROCMFORGE_SCAN_BLOCK_H
#include "state.h"

#if COLUMNS % 32 == 0 || (defined(KIND_MAMBA) && HEADS % 32 == 0)
#define VECTORS 2
#else
#define VECTORS 1
#endif
#define LANES (16 * VECTORS)

/* Vectors of a row that a pass over the rows takes: as many as registers hold with their sums. */
#define MANY_REGISTERS (MORE_TOKENS > 8)
#define WIDE (MANY_REGISTERS ? VECTORS : 1)

struct block {
    f32x16 state[STATE][VECTORS];
#ifdef KIND_MAMBA
    f32x16 a[STATE][VECTORS]; /* of each lane's head */
#endif
    void *const *arguments;
    int32_t head, column; /* of the first lane; of mamba the lane's head, and 0 */
    int32_t count; /* lanes that there are */
};

/* Sums over a matrix's rows: of even and of odd ones. */
struct sums {
    f32x16 of[2][WIDE];
};
INLINE void clear(struct sums *sums)
{
    for (int v = 0; v < WIDE; v++) sums->of[0][v] = sums->of[1][v] = splat(0);
}
INLINE f32x16 sum_of(const struct sums *sums, int v) { return sums->of[0][v] + sums->of[1][v]; }

/* An input's row, from the column on that it begins with. */
INLINE const float *row_of(const struct block *block, int argument, int32_t t, int32_t stride, int32_t first)
{
    return (const float *)block->arguments[argument] + (size_t)t * stride + first;
}
INLINE float *out_of(const struct block *block, int32_t t)
{
    return (float *)block->arguments[0] + (size_t)t * (HEADS * COLUMNS) + block->head * COLUMNS + block->column;
}
/* Where vector v of a row lies in a block's state. */
INLINE size_t row_at(int i, int v) { return ((size_t)i * VECTORS + v) * sizeof(f32x16); }
#endif
