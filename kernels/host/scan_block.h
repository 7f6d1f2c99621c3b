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

struct block {
    f32x16 state[STATE][VECTORS];
#ifdef KIND_MAMBA
    f32x16 a[STATE][VECTORS]; /* of each lane's head */
#endif
    void *const *arguments;
    int32_t head, column; /* of the first lane; of mamba the lane's head, and 0 */
    int32_t count; /* lanes that there are */
};

/* An input's row, from the column on that it begins with. */
INLINE const float *row_of(const struct block *block, int argument, int32_t t, int32_t stride, int32_t first)
{
    return (const float *)block->arguments[argument] + (size_t)t * stride + first;
}
INLINE float first_lane(f32x16 v) { return v[0]; }
#endif
