/* out[t, c] = SCALE * sum over a token's experts j of x[t, j * COLUMNS + c], times its weight for the token unless
 * WEIGHTED says that it is in there.
 *
 * Constants: COLUMNS, USED, WEIGHTED, SCALE, AT_OUTPUT_ROWS where rows are those of which outputs are read. Arguments: x float32[T, USED * COLUMNS], routed float32[T, 2 * USED],
 * out float32[T, COLUMNS]. A work item is one token.
 */
#include "vector.h"

static int32_t expert_sum_items(const struct step *step) { return OUTPUT_COUNT(step); }

static void expert_sum_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++) {
        const int32_t t = made_row(step, i);
        const float *x = (const float *)arguments[0] + (size_t)t * (USED * COLUMNS);
        const float *weights = (const float *)arguments[1] + (size_t)t * (2 * USED);
        float *out = (float *)arguments[2] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c++) {
            float sum = 0;
            for (int32_t j = 0; j < USED; j++) {
                const float value = x[(size_t)j * COLUMNS + c];
                sum += WEIGHTED ? value : weights[j] * value;
            }
            out[c] = sum * SCALE;
        }
    }
}
EXPORT const struct kernel SYMBOL = { expert_sum_items, expert_sum_run };
