/* out[t, c] = x[t, c] + other[t, c], or times it.
 *
 * Constants: COLUMNS, COMBINE_ADD or COMBINE_MUL, OTHER_COLUMNS (COLUMNS, or 1 for all columns), OTHER_STRIDE (from a row
 * of other to the next; 0: all rows have one), OTHER_OFFSET where it begins within a row, AT_LOGITS_ROWS (1: rows are those of which logits
 * are asked); AT_OUTPUT_ROWS where they are those of which outputs are read.
 * Arguments: x float32[T, COLUMNS], other float32, out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

#ifndef OTHER_OFFSET
#define OTHER_OFFSET 0
#endif
#if defined(COMBINE_ADD)
#define COMBINE(a, b) ((a) + (b))
#elif defined(COMBINE_MUL)
#define COMBINE(a, b) ((a) * (b))
#endif

static int32_t elementwise_items(const struct step *step) { return COUNT(step); }

static void elementwise_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++) {
        const int32_t t = made_row(step, i);
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        const float *other = (const float *)arguments[1] + (size_t)t * OTHER_STRIDE + OTHER_OFFSET;
        float *out = (float *)arguments[2] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c++) out[c] = COMBINE(x[c], other[OTHER_COLUMNS == 1 ? 0 : c]);
    }
}
EXPORT const struct kernel SYMBOL = { elementwise_items, elementwise_run };
