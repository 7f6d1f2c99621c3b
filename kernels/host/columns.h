/* out[t] = x[t], from column FIRST on; of each of GROUPS groups of x, side by side.
 *
 * Constants: COLUMNS (of out), STRIDE (columns of x), FIRST. Where they are not the usual also GROUPS, and WRITTEN
 * (columns of them) and OUT_OFFSET (the first of them).
 * Arguments: x float32[T, STRIDE], out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"
#include "columns_options.h"

static int32_t columns_items(const struct step *step) { return step->num_tokens; }

static void columns_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * STRIDE + FIRST;
        float *out = (float *)arguments[1] + (size_t)t * COLUMNS + OUT_OFFSET;
        for (int32_t group = 0; group < GROUPS; group++)
            for (int32_t c = 0; c < OF_GROUP; c++) out[group * OF_GROUP + c] = x[group * (STRIDE / GROUPS) + c];
    }
}
EXPORT const struct kernel SYMBOL = { columns_items, columns_run };
