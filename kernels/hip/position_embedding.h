/* out[t] = x[t] + row positions[t] of a matrix.
 *
 * Constants: COLUMNS. Arguments: x float32[T, COLUMNS], weights, out float32[T, COLUMNS]. Grid: x 1, y tokens.
 */
#include "weights.h"

#define THREADS 128

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y();
    if (token >= STEP->num_tokens) return;
    const int32_t row = STEP->positions[token];
    weight_pointer tile = (weight_pointer)a1 + (size_t)(row / 32) * TILE_BYTES;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)token * COLUMNS;
    GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a2 + (size_t)token * COLUMNS;
    for (int32_t item = thread_index(); item < ROW_ITEMS; item += THREADS) {
        float values[ITEM_COLUMNS];
        dequantize_item(tile, row % 32, item, values);
        UNROLL_FOR (int c = 0; c < ITEM_COLUMNS; c++) {
            const int32_t at = item * ITEM_COLUMNS + c;
            if (COLUMNS % ITEM_COLUMNS == 0 || at < COLUMNS) out[at] = values[c] + x[at];
        }
    }
}
