/* out[t] = max(x[t] - mean - DEVIATIONS * deviation, 0), of the mean and the standard deviation of x[t].
 *
 * Constants: COLUMNS, THREADS, DEVIATIONS.
 * Arguments: x float32[T, COLUMNS], out float32[T, COLUMNS]. Grid: y rows.
 */
#include "group_sum.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[WAVES], partial_squares[WAVES];
    const int32_t token = group_y();
    if (token >= STEP->num_tokens) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)token * COLUMNS;
    GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a1 + (size_t)token * COLUMNS;
    float sum = 0, squares = 0;
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) sum += x[c];
    const float mean = sum_of_threads(sum, partial) / COLUMNS;
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) squares = float_fma(x[c] - mean, x[c] - mean, squares);
    const float deviation = float_sqrt(sum_of_threads(squares, partial_squares) / (COLUMNS - 1));
    const float cut = mean + DEVIATIONS * deviation;
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS)
        out[c] = x[c] <= cut ? 0 : x[c] - cut; /* a NaN stays one */
}
