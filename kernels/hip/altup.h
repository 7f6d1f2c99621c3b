/* out[t] = sums over the residual streams of a token: see compiler/ops/altup.py.
 *
 * Constants: COLUMNS (STREAMS * STREAM_COLUMNS), THREADS, KIND_PREDICT, KIND_CORRECT or KIND_SPREAD.
 * Arguments: out float32[T, COLUMNS], x of the same, then what the kind has: coefficients float32[T, STREAMS, STREAMS];
 * or y float32[T, STREAM_COLUMNS] and coefficients float32[T, STREAMS]; or y. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), at = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || at >= COLUMNS) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a1 + (size_t)token * COLUMNS;
    const int32_t stream = at / STREAM_COLUMNS, c = at % STREAM_COLUMNS;
    float sum = x[at];
#ifdef KIND_PREDICT
    const GLOBAL_MEMORY float *coefficients =
        (const GLOBAL_MEMORY float *)a2 + ((size_t)token * STREAMS + stream) * STREAMS;
    for (int32_t j = 0; j < STREAMS; j++) sum += coefficients[j] * x[j * STREAM_COLUMNS + c];
#else
    const float y = ((const GLOBAL_MEMORY float *)a2)[(size_t)token * STREAM_COLUMNS + c];
#ifdef KIND_CORRECT
    sum += (1.0f + ((const GLOBAL_MEMORY float *)a3)[(size_t)token * STREAMS + stream]) * (y - x[c]);
#elif defined(KIND_SPREAD)
    if (stream > 0) sum += y;
#else
#error "expected a KIND"
#endif
#endif
    ((GLOBAL_MEMORY float *)a0)[(size_t)token * COLUMNS + at] = sum;
}
