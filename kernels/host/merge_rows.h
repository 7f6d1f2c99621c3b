/* out[i] = MERGED neighbouring rows of x made one, from logits_rows[i] on; behind the last token there are zeros.
 *
 * Constants: COLUMNS (of out), SOURCE_COLUMNS (of x), MERGED; KIND_SIDE (rows side by side), KIND_MEAN (their mean) or
 * KIND_TURNED (the first elements of all rows, then the second).
 * Arguments: x float32[T, SOURCE_COLUMNS], out float32[R, COLUMNS]. A work item is one row of out.
 */
#include "vector.h"

#if !defined(KIND_SIDE) && !defined(KIND_MEAN) && !defined(KIND_TURNED)
#error "expected a KIND"
#endif

static int32_t merge_rows_items(const struct step *step) { return step->num_logits; }

static void merge_rows_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++) {
        const int32_t first = step->logits_rows[i], count = int_min(MERGED, step->num_tokens - first);
        const float *x = (const float *)arguments[0] + (size_t)first * SOURCE_COLUMNS;
        float *out = (float *)arguments[1] + (size_t)i * COLUMNS;
        for (int32_t c = 0; c < SOURCE_COLUMNS; c++) {
            float sum = 0;
            for (int32_t k = 0; k < MERGED; k++) {
                const float value = k < count ? x[(size_t)k * SOURCE_COLUMNS + c] : 0;
#ifdef KIND_MEAN
                sum += value;
#elif defined(KIND_TURNED)
                out[c * MERGED + k] = value;
#elif defined(KIND_SIDE)
                out[k * SOURCE_COLUMNS + c] = value;
#endif
            }
#ifdef KIND_MEAN
            out[c] = sum / MERGED;
#else
            (void)sum;
#endif
        }
    }
}
EXPORT const struct kernel SYMBOL = { merge_rows_items, merge_rows_run };
