/* out[t, c] = x[t, column[c]], and minus infinity where that is -1.
 *
 * Constants: COLUMNS (of out), THREADS, STRIDE (columns of x), AT_LOGITS_ROWS (1: rows are those of which logits are
 * asked). Arguments: x float32[T, STRIDE], column float32[COLUMNS], out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS,
 * y rows.
 */
#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= COUNT(STEP) || c >= COLUMNS) return;
    const float column = ((const GLOBAL_MEMORY float *)a1)[c];
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)token * STRIDE;
    ((GLOBAL_MEMORY float *)a2)[(size_t)token * COLUMNS + c] = column < 0 ? -__builtin_inff() : x[(int32_t)column];
}
