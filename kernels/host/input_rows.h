/* out[t] = columns FIRST to FIRST + COLUMNS of the row given from outside that a token takes, added to out where ADDS.
 * Where it takes none out stays if KEEPS, and else is 0.
 *
 * Constants: COLUMNS, WIDTH (of a row from outside), FIRST, KEEPS, ADDS.
 * Arguments: out float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

static int32_t input_rows_items(const struct step *step) { return KEEPS && !step->row_of ? 0 : step->num_tokens; }

static void input_rows_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t t = begin; t < end; t++) {
        const int32_t row = step->row_of ? step->row_of[t] : -1;
        float *out = (float *)arguments[0] + (size_t)t * COLUMNS;
        if (row < 0) {
            for (int32_t c = 0; !KEEPS && c < COLUMNS; c++) out[c] = 0;
            continue;
        }
        const float *given = step->input_rows + (size_t)row * WIDTH + FIRST;
        for (int32_t c = 0; c < COLUMNS; c++) out[c] = ADDS ? out[c] + given[c] : given[c];
    }
}
EXPORT const struct kernel SYMBOL = { input_rows_items, input_rows_run };
