/* out[t] = row token_ids[t] of the token embedding.
 *
 * Constants: COLUMNS; SCALE where rows are times a number. Arguments: weights, out float32[T, COLUMNS]. Grid: x 1, y tokens.
 */
#include "weights.h"

#define THREADS 128

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y();
    if (token >= STEP->num_tokens) return;
    const int32_t row = STEP->token_ids[token];
    weight_pointer tile = (weight_pointer)a0 + (size_t)(row / 32) * TILE_BYTES;
    GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a1 + (size_t)token * COLUMNS;
    for (int32_t item = thread_index(); item < ROW_ITEMS; item += THREADS) {
        float values[ITEM_COLUMNS];
        dequantize_item(tile, row % 32, item, values);
#ifdef SCALE
        UNROLL_FOR (int c = 0; c < ITEM_COLUMNS; c++) values[c] *= SCALE;
#endif
#if COLUMNS % 4 || COLUMNS % ITEM_COLUMNS /* rows begin at no multiple of four, or end within an item */
        UNROLL_FOR (int c = 0; c < ITEM_COLUMNS; c++)
            if (item * ITEM_COLUMNS + c < COLUMNS) out[item * ITEM_COLUMNS + c] = values[c];
#else
        UNROLL_FOR (int c = 0; c < ITEM_COLUMNS; c += 4) {
            const f32x4 four = { values[c], values[c + 1], values[c + 2], values[c + 3] };
            *(GLOBAL_MEMORY f32x4 *)(out + item * ITEM_COLUMNS + c) = four;
        }
#endif
    }
}
