/* out[t, c] = x[t, column[c]], and minus infinity where that is -1.
 *
 * Constants: COLUMNS (of out), STRIDE (columns of x), AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, STRIDE], column float32[COLUMNS], out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

static int32_t token_logits_items(const struct step *step) { return COUNT(step); }

static void token_logits_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    const float *column = (const float *)arguments[1];
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * STRIDE;
        float *out = (float *)arguments[2] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c++) out[c] = column[c] < 0 ? -__builtin_inff() : x[(int32_t)column[c]];
    }
}
EXPORT const struct kernel SYMBOL = { token_logits_items, token_logits_run };
