/* out[i] = MERGED neighbouring rows of x made one, from logits_rows[i] on; behind the last token there are zeros.
 *
 * Constants: COLUMNS (of out), THREADS, SOURCE_COLUMNS (of x), MERGED; KIND_SIDE (rows side by side), KIND_MEAN (their
 * mean) or KIND_TURNED (the first elements of all rows, then the second).
 * Arguments: x float32[T, SOURCE_COLUMNS], out float32[R, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows of out.
 */
#include "prelude.h"

#if !defined(KIND_SIDE) && !defined(KIND_MEAN) && !defined(KIND_TURNED)
#error "expected a KIND"
#endif

INLINE float merged_element(step_pointer step, const GLOBAL_MEMORY float *x, int32_t row, int32_t c)
{
    return row < step->num_tokens ? x[(size_t)row * SOURCE_COLUMNS + c] : 0;
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t i = group_y(), c = group_x() * THREADS + thread_index();
    if (i >= STEP->num_logits || c >= COLUMNS) return;
    const int32_t first = STEP->logits_rows[i];
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0;
#ifdef KIND_MEAN
    float value = 0;
    for (int32_t k = 0; k < MERGED; k++) value += merged_element(STEP, x, first + k, c);
    value = value / MERGED;
#elif defined(KIND_TURNED)
    const float value = merged_element(STEP, x, first + c % MERGED, c / MERGED);
#elif defined(KIND_SIDE)
    const float value = merged_element(STEP, x, first + c / SOURCE_COLUMNS, c % SOURCE_COLUMNS);
#endif
    ((GLOBAL_MEMORY float *)a1)[(size_t)i * COLUMNS + c] = value;
}
