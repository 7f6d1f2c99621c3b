/* out[t] = x[t], from column FIRST on.
 *
 * Constants: COLUMNS (of out), THREADS, STRIDE (columns of x), FIRST.
 * Arguments: x float32[T, STRIDE], out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const float value = ((const GLOBAL_MEMORY float *)a0)[(size_t)token * STRIDE + FIRST + c];
    ((GLOBAL_MEMORY float *)a1)[(size_t)token * COLUMNS + c] = value;
}
