/* out[i] = y / sqrt(mean(y^2) + EPSILON) * weight + bias, of y = x[row(i)], as int8 blocks, int8 superblocks or float32.
 *
 * Constants: COLUMNS, EPSILON, OUT_Q8, OUT_SUPER (1: superblocks), AT_LOGITS_ROWS (1: only the rows of which logits are
 * asked, packed). Where it is not the usual also AT_OUTPUT_ROWS (1: only those of which outputs are read), GROUP (elements
 * normed together), KIND_LAYER (y is x less its mean), WEIGHT_COLUMNS (GROUP: all groups share them; 0: there are none),
 * HAS_BIAS (of as many columns), PACKED (1: x has the rows of out already).
 * Arguments: x float32[T, COLUMNS], weight float32[WEIGHT_COLUMNS], out, bias. A work item is one row of out.
 */
#include "quantize_blocks.h"

#ifndef GROUP
#define GROUP COLUMNS
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
#ifdef KIND_LAYER
#define IS_LAYER 1
#else
#define IS_LAYER 0
#endif

static int32_t norm_items(const struct step *step) { return COUNT(step); }

static float group_mean(const float *x)
{
    f32x16 sums = splat(0);
    int32_t c = 0;
    for (; c + 16 <= GROUP; c += 16) sums += load_f32(x + c);
    float sum = horizontal_sum(sums);
    for (; c < GROUP; c++) sum += x[c];
    return sum / GROUP;
}

INLINE float group_inverse(const float *x, const float mean)
{
    f32x16 squares = splat(0);
    int32_t c = 0;
    for (; c + 16 <= GROUP; c += 16) {
        const f32x16 y = IS_LAYER ? load_f32(x + c) - mean : load_f32(x + c);
        squares = vector_fma(y, y, squares);
    }
    float sum = horizontal_sum(squares);
    for (; c < GROUP; c++) {
        const float y = IS_LAYER ? x[c] - mean : x[c];
        sum += y * y;
    }
    return 1.0f / __builtin_sqrtf(sum / GROUP + EPSILON);
}

/* Columns from `first` on as int8, no more than are made at once. */
INLINE void norm_columns(const float *x, const float *weight, const float *bias, char *out, const float mean,
                         const float inverse, const int32_t first, const int32_t columns)
{
    float values[COLUMNS_AT_ONCE] __attribute__((aligned(64)));
    for (int32_t i = 0; i < columns; i += 16) {
        const int32_t c = first + i;
        f32x16 y = (IS_LAYER ? load_f32(x + c) - mean : load_f32(x + c)) * inverse;
        if (WEIGHT_COLUMNS) y *= load_f32(weight + c);
        store_f32(values + i, HAS_BIAS ? y + load_f32(bias + c) : y);
    }
    quantize_columns(values, out, first, columns);
}

static void norm_group(const float *x, const float *weight, const float *bias, char *out)
{
    const float mean = IS_LAYER ? group_mean(x) : 0, inverse = group_inverse(x, mean);
    if (OUT_Q8) {
        FOR_COLUMNS(GROUP, first, count, norm_columns(x, weight, bias, out, mean, inverse, first, count));
        return;
    }
    for (int32_t c = 0; c < GROUP; c++) {
        float y = (IS_LAYER ? x[c] - mean : x[c]) * inverse;
        if (WEIGHT_COLUMNS) y *= weight[c];
        ((float *)out)[c] = HAS_BIAS ? y + bias[c] : y;
    }
}

static void norm_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const size_t stride = OUT_Q8 ? Q8_BYTES(COLUMNS) : COLUMNS * sizeof(float);
    for (int32_t i = begin; i < end; i++) {
        const int32_t made = made_row(step, i), row = AT_LOGITS_ROWS && !PACKED ? step->logits_rows[i] : made;
        for (int32_t c = 0; c < COLUMNS; c += GROUP) {
            const int32_t at = WEIGHT_COLUMNS == COLUMNS ? c : 0;
            norm_group((const float *)arguments[0] + (size_t)row * COLUMNS + c,
                       WEIGHT_COLUMNS ? (const float *)arguments[1] + at : 0,
                       HAS_BIAS ? (const float *)arguments[3] + at : 0,
                       (char *)arguments[2] + made * stride + (size_t)c / GROUP * (stride / (COLUMNS / GROUP)));
        }
    }
}
EXPORT const struct kernel SYMBOL = { norm_items, norm_run };
