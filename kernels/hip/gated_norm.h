/* out[t] = x * activation(z), with a norm of groups before or after: compiler/ops/gated_norm.py.
 *
 * Constants: COLUMNS, THREADS, GROUP (elements normed together), NORM_BEFORE, NORM_AFTER or NORM_NONE, ACTIVATION_<NAME>,
 * EPSILON, WEIGHT_COLUMNS (COLUMNS, GROUP: all groups share them, or 0: there are none), GATE_STRIDE (columns of the gates'
 * rows), GATE_FIRST (the one that z begins with), OUT_Q8.
 * Arguments: x float32[T, COLUMNS], gates float32[T, GATE_STRIDE], out float32[T, COLUMNS] or int8 blocks, weight
 * float32[WEIGHT_COLUMNS]. Grid: x = COLUMNS / GROUP, y rows.
 */
#include "activation.h"
#include "group_sum.h"

#if !defined(NORM_BEFORE) && !defined(NORM_AFTER) && !defined(NORM_NONE)
#error "expected NORM_BEFORE, NORM_AFTER or NORM_NONE"
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), first = group_x() * GROUP;
    if (token >= STEP->num_tokens) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)token * COLUMNS + first;
    const GLOBAL_MEMORY float *z = (const GLOBAL_MEMORY float *)a1 + (size_t)token * GATE_STRIDE + GATE_FIRST + first;
    const GLOBAL_MEMORY float *weight = (const GLOBAL_MEMORY float *)a3 + (WEIGHT_COLUMNS == COLUMNS ? first : 0);
    float inverse = 1;
#ifndef NORM_NONE
    __shared__ float partial[WAVES];
    float squares = 0;
    for (int32_t c = thread_index(); c < GROUP; c += THREADS) {
#ifdef NORM_BEFORE
        const float normed = x[c];
#else
        const float normed = x[c] * activation(z[c]);
#endif
        squares = float_fma(normed, normed, squares);
    }
    inverse = 1.0f / float_sqrt(sum_of_threads(squares, partial) / GROUP + EPSILON);
#endif
    for (int32_t c = thread_index(); c < GROUP; c += THREADS) {
        const float factor = WEIGHT_COLUMNS ? inverse * weight[c] : inverse, value = x[c] * activation(z[c]) * factor;
        if (OUT_Q8)
            quantize_lane(value,
                          (GLOBAL_MEMORY struct q8_block *)a2 + (size_t)token * (COLUMNS / 32) + (first + c) / 32);
        else
            ((GLOBAL_MEMORY float *)a2)[(size_t)token * COLUMNS + first + c] = value;
    }
}
