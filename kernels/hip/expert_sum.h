/* out[t, c] = SCALE * sum over a token's experts j of x[t, j * COLUMNS + c], times its weight for the token unless
 * WEIGHTED says that it is in there.
 *
 * Constants: COLUMNS, THREADS, USED, WEIGHTED, SCALE. Arguments: x float32[T, USED * COLUMNS], routed
 * float32[T, 2 * USED], out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y tokens.
 */
#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)token * (USED * COLUMNS) + c;
    const GLOBAL_MEMORY float *weights = (const GLOBAL_MEMORY float *)a1 + (size_t)token * (2 * USED);
    float sum = 0;
    UNROLL_FOR (int j = 0; j < USED; j++) {
        const float value = x[(size_t)j * COLUMNS];
        sum += WEIGHTED ? value : weights[j] * value;
    }
    ((GLOBAL_MEMORY float *)a2)[(size_t)token * COLUMNS + c] = sum * SCALE;
}
