/* out[t] = x[t], from column FIRST on; of each of GROUPS groups of x, side by side.
 *
 * Constants: COLUMNS (of out), THREADS, STRIDE (columns of x), FIRST. Where they are not the usual also GROUPS, and WRITTEN
 * (columns of them) and OUT_OFFSET (the first of them).
 * Arguments: x float32[T, STRIDE], out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"
#include "columns_options.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= WRITTEN) return;
    const int32_t at = c / OF_GROUP * (STRIDE / GROUPS) + FIRST + c % OF_GROUP;
    const float value = ((const GLOBAL_MEMORY float *)a0)[(size_t)token * STRIDE + at];
    ((GLOBAL_MEMORY float *)a1)[(size_t)token * COLUMNS + OUT_OFFSET + c] = value;
}
