/* out[t, g] = x[t, g] * sqrt(mean(like[t]^2) / max(mean(x[t, g]^2), LEAST)); where JOINED behind like[t].
 *
 * Constants: COLUMNS (of a group), GROUPS, LEAST, JOINED, THREADS.
 * Arguments: x float32[T, GROUPS, COLUMNS], like float32[T, COLUMNS], out float32[T, GROUPS + JOINED, COLUMNS].
 * Grid: x = GROUPS, y rows; the first group of a row copies what it is joined to.
 */
#include "group_sum.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[WAVES], partial_like[WAVES];
    const int32_t token = group_y(), group = group_x();
    if (token >= STEP->num_tokens) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + ((size_t)token * GROUPS + group) * COLUMNS;
    const GLOBAL_MEMORY float *like = (const GLOBAL_MEMORY float *)a1 + (size_t)token * COLUMNS;
    GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a2 + (size_t)token * ((GROUPS + JOINED) * COLUMNS);
    float squares = 0, squares_like = 0;
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) {
        squares = float_fma(x[c], x[c], squares);
        squares_like = float_fma(like[c], like[c], squares_like);
    }
    const float mean = sum_of_threads(squares, partial) / COLUMNS;
    const float goal = sum_of_threads(squares_like, partial_like) / COLUMNS;
    const float scale = float_sqrt(goal / (mean < LEAST ? LEAST : mean));
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) {
        if (JOINED && group == 0) out[c] = like[c];
        out[(group + JOINED) * COLUMNS + c] = x[c] * scale;
    }
}
