/* out[i] = y / sqrt(mean(y^2) + EPSILON) * weight + bias, of y = x[row(i)], as int8 blocks or float32.
 *
 * Constants: COLUMNS, THREADS, EPSILON, OUT_Q8, AT_LOGITS_ROWS (1: only the rows of which logits are asked, packed). Where
 * it is not the usual also GROUP (elements normed together), KIND_LAYER (y is x less its mean), WEIGHT_COLUMNS (GROUP:
 * all groups share them; 0: there are none), HAS_BIAS (of as many columns), PACKED (1: x has the rows of out already).
 * Arguments: x float32[T, COLUMNS], weight float32[WEIGHT_COLUMNS], out, bias. Grid: x = COLUMNS / GROUP, y rows.
 */
#include "group_sum.h"

#ifdef GROUP
#define FIRST (group_x() * GROUP)
#else
#define GROUP COLUMNS
#define FIRST 0
#endif
#ifndef WEIGHT_COLUMNS
#define WEIGHT_COLUMNS COLUMNS
#endif
#ifndef HAS_BIAS
#define HAS_BIAS 0
#endif
#ifndef PACKED
#define PACKED 0
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[WAVES];
    const int32_t i = group_y();
    if (i >= COUNT(STEP)) return;
    const int32_t row = AT_LOGITS_ROWS && !PACKED ? STEP->logits_rows[i] : i;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)row * COLUMNS + FIRST;
    const int32_t at = WEIGHT_COLUMNS == COLUMNS ? FIRST : 0;
    const GLOBAL_MEMORY float *weight = (const GLOBAL_MEMORY float *)a1 + at;
    const GLOBAL_MEMORY float *bias = (const GLOBAL_MEMORY float *)a3 + at;
#ifdef KIND_LAYER
    __shared__ float partial_sums[WAVES];
    float sum = 0;
    for (int32_t c = thread_index(); c < GROUP; c += THREADS) sum += x[c];
    const float mean = sum_of_threads(sum, partial_sums) / GROUP;
#define CENTRED(v) ((v) - mean)
#else
#define CENTRED(v) (v)
#endif
    float squares = 0;
    for (int32_t c = thread_index(); c < GROUP; c += THREADS)
        squares = float_fma(CENTRED(x[c]), CENTRED(x[c]), squares);
    const float inverse = 1.0f / float_sqrt(sum_of_threads(squares, partial) / GROUP + EPSILON);
    for (int32_t c = thread_index(); c < GROUP; c += THREADS) {
        float value = CENTRED(x[c]) * inverse;
        if (WEIGHT_COLUMNS) value *= weight[c];
        if (HAS_BIAS) value += bias[c];
        if (OUT_Q8)
            quantize_lane(value, (GLOBAL_MEMORY struct q8_block *)a2 + (size_t)i * (COLUMNS / 32) + (FIRST + c) / 32);
        else
            ((GLOBAL_MEMORY float *)a2)[(size_t)i * COLUMNS + FIRST + c] = value;
    }
}
