/* out[t, c] = x[t, c] + other[t, c], or times it.
 *
 * Constants: COLUMNS, THREADS, COMBINE_ADD or COMBINE_MUL, OTHER_COLUMNS (COLUMNS, or 1 for all columns), OTHER_STRIDE
 * (from a row of other to the next; 0: all rows have one), OTHER_OFFSET where it begins within a row, AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, COLUMNS], other float32, out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

#ifndef OTHER_OFFSET
#define OTHER_OFFSET 0
#endif
#if defined(COMBINE_ADD)
#define COMBINE(a, b) ((a) + (b))
#elif defined(COMBINE_MUL)
#define COMBINE(a, b) ((a) * (b))
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= COUNT(STEP) || c >= COLUMNS) return;
    const size_t at = (size_t)token * COLUMNS + c;
    const float other =
        ((const GLOBAL_MEMORY float *)a1)[(size_t)token * OTHER_STRIDE + OTHER_OFFSET + (OTHER_COLUMNS == 1 ? 0 : c)];
    ((GLOBAL_MEMORY float *)a2)[at] = COMBINE(((const GLOBAL_MEMORY float *)a0)[at], other);
}
