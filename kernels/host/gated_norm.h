/* out[t] = x * activation(z), with a norm of groups before or after: compiler/ops/gated_norm.py.
 *
 * Constants: COLUMNS, GROUP (elements normed together), NORM_BEFORE, NORM_AFTER or NORM_NONE, ACTIVATION_<NAME>, EPSILON,
 * WEIGHT_COLUMNS (COLUMNS, GROUP: all groups share them, or 0: there are none), GATE_STRIDE (columns of the gates' rows),
 * GATE_FIRST (the one that z begins with), OUT_Q8.
 * Arguments: x float32[T, COLUMNS], gates float32[T, GATE_STRIDE], out float32[T, COLUMNS] or int8 blocks, weight
 * float32[WEIGHT_COLUMNS]. A work item is one row.
 */
#include "activation.h"
#include "quantize_blocks.h"

#if defined(NORM_BEFORE)
#define NORM_IS_BEFORE 1
#elif defined(NORM_AFTER)
#define NORM_IS_BEFORE 0
#elif defined(NORM_NONE)
#else
#error "expected NORM_BEFORE, NORM_AFTER or NORM_NONE"
#endif

static int32_t gated_norm_items(const struct step *step) { return step->num_tokens; }

/* values: of a group, filled up to a multiple of 32. */
static void gate_group(const float *x, const float *z, const float *weight, float *values)
{
    f32x16 squares = splat(0);
    for (int32_t c = 0; c < GROUP; c += 16) {
        const f32x16 own = load_some(x, c, GROUP), gated = own * activation(load_some(z, c, GROUP));
        store_f32(values + c, gated);
#ifndef NORM_NONE
        const f32x16 normed = NORM_IS_BEFORE ? own : gated;
        squares = vector_fma(normed, normed, squares);
#endif
    }
#ifdef NORM_NONE
    (void)squares, (void)weight;
#else
    const float inverse = 1.0f / __builtin_sqrtf(horizontal_sum(squares) / GROUP + EPSILON);
    for (int32_t c = 0; c < GROUP; c++) values[c] *= WEIGHT_COLUMNS ? inverse * weight[c] : inverse;
#endif
}

static void gated_norm_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    float values[(GROUP + 31) / 32 * 32] __attribute__((aligned(64)));
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        const float *z = (const float *)arguments[1] + (size_t)t * GATE_STRIDE + GATE_FIRST;
        for (int32_t first = 0; first < COLUMNS; first += GROUP) {
            const float *weight = (const float *)arguments[3] + (WEIGHT_COLUMNS == COLUMNS ? first : 0);
            gate_group(x + first, z + first, weight, values);
#if OUT_Q8
            struct q8_block *out = (struct q8_block *)arguments[2] + (size_t)t * (COLUMNS / 32) + first / 32;
            quantize_row(values, out, GROUP);
#else
            float *out = (float *)arguments[2] + (size_t)t * COLUMNS + first;
            for (int32_t c = 0; c < GROUP; c++) out[c] = values[c];
#endif
        }
    }
}
EXPORT const struct kernel SYMBOL = { gated_norm_items, gated_norm_run };
