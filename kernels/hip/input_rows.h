/* out[t] = columns FIRST to FIRST + COLUMNS of the row given from outside that a token takes, added to out where ADDS.
 * Where it takes none out stays if KEEPS, and else is 0. Rows from outside are read where the host wrote them.
 *
 * Constants: COLUMNS, THREADS, WIDTH (of a row from outside), FIRST, KEEPS, ADDS.
 * Arguments: out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "host_memory.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const int32_t row = STEP->row_of ? STEP->row_of[token] : -1;
    GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a0 + (size_t)token * COLUMNS + c;
    if (row < 0) {
        if (!KEEPS) *out = 0;
        return;
    }
    const GLOBAL_MEMORY float *given = STEP->input_rows + (size_t)row * WIDTH + FIRST + c;
    const float value = from_bits(load_host((const GLOBAL_MEMORY int32_t *)given));
    *out = ADDS ? *out + value : value;
}
