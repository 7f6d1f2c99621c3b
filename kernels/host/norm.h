/* out[i] = x[row(i)] * weight / sqrt(mean(x^2) + EPSILON), as int8 blocks or float32.
 *
 * Constants: COLUMNS, EPSILON, OUT_Q8, AT_LOGITS_ROWS (1: only the rows of which logits are asked, packed).
 * Arguments: x float32[T, COLUMNS], weight float32[COLUMNS], out. A work item is one row of out.
 */
#include "vector.h"

static int32_t norm_items(const struct step *step) { return COUNT(step); }

static void norm_row(const float *x, const float *weight, char *out)
{
    f32x16 squares = splat(0);
    int32_t c = 0;
    for (; c + 16 <= COLUMNS; c += 16) squares = vector_fma(load_f32(x + c), load_f32(x + c), squares);
    float sum = horizontal_sum(squares);
    for (; c < COLUMNS; c++) sum += x[c] * x[c];
    const float inverse = 1.0f / __builtin_sqrtf(sum / COLUMNS + EPSILON);
    if (OUT_Q8) {
        float values[32] __attribute__((aligned(64)));
        for (c = 0; c < COLUMNS; c += 32) {
            for (int i = 0; i < 32; i += 16)
                store_f32(values + i, load_f32(x + c + i) * inverse * load_f32(weight + c + i));
            quantize_block(values, (struct q8_block *)out + c / 32);
        }
        return;
    }
    for (c = 0; c < COLUMNS; c++) ((float *)out)[c] = x[c] * inverse * weight[c];
}

static void norm_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const size_t stride = OUT_Q8 ? COLUMNS / 32 * sizeof(struct q8_block) : COLUMNS * sizeof(float);
    for (int32_t i = begin; i < end; i++) {
        const int32_t row = AT_LOGITS_ROWS ? step->logits_rows[i] : i;
        norm_row((const float *)arguments[0] + (size_t)row * COLUMNS, (const float *)arguments[1],
                 (char *)arguments[2] + i * stride);
    }
}
EXPORT const struct kernel SYMBOL = { norm_items, norm_run };
