/* out[t] = x[t], from column FIRST on.
 *
 * Constants: COLUMNS (of out), STRIDE (columns of x), FIRST.
 * Arguments: x float32[T, STRIDE], out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

static int32_t columns_items(const struct step *step) { return step->num_tokens; }

static void columns_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * STRIDE + FIRST;
        float *out = (float *)arguments[1] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c++) out[c] = x[c];
    }
}
EXPORT const struct kernel SYMBOL = { columns_items, columns_run };
