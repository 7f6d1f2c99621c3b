/* out[t] = max(x[t] - mean - DEVIATIONS * deviation, 0), of the mean and the standard deviation of x[t].
 *
 * Constants: COLUMNS, DEVIATIONS. Arguments: x float32[T, COLUMNS], out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

static int32_t gaussian_cut_items(const struct step *step) { return step->num_tokens; }

static void gaussian_cut_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        float *out = (float *)arguments[1] + (size_t)t * COLUMNS;
        f32x16 sums = splat(0), squares = splat(0);
        int32_t c = 0;
        for (; c + 16 <= COLUMNS; c += 16) sums += load_f32(x + c);
        float sum = horizontal_sum(sums);
        for (; c < COLUMNS; c++) sum += x[c];
        const float mean = sum / COLUMNS;
        for (c = 0; c + 16 <= COLUMNS; c += 16) {
            const f32x16 y = load_f32(x + c) - mean;
            squares = vector_fma(y, y, squares);
        }
        float square = horizontal_sum(squares);
        for (; c < COLUMNS; c++) square += (x[c] - mean) * (x[c] - mean);
        const float cut = mean + DEVIATIONS * __builtin_sqrtf(square / (COLUMNS - 1));
        for (c = 0; c < COLUMNS; c++) out[c] = x[c] <= cut ? 0 : x[c] - cut; /* a NaN stays one */
    }
}
EXPORT const struct kernel SYMBOL = { gaussian_cut_items, gaussian_cut_run };
