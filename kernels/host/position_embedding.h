/* out[t] = x[t] + row positions[t] of a matrix.
 *
 * Constants: COLUMNS. Arguments: x float32[T, COLUMNS], weights, out float32[T, COLUMNS]. A work item is one token.
 */
#include "weights.h"

static int32_t position_embedding_items(const struct step *step) { return step->num_tokens; }

static void position_embedding_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t t = begin; t < end; t++) {
        const int32_t row = step->positions[t];
        const uint8_t *tile = (const uint8_t *)arguments[1] + (size_t)(row / 16) * TILE_BYTES;
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        float *out = (float *)arguments[2] + (size_t)t * COLUMNS;
        dequantize_row(tile, row % 16, out);
        for (int32_t c = 0; c < COLUMNS; c++) out[c] += x[c];
    }
}
EXPORT const struct kernel SYMBOL = { position_embedding_items, position_embedding_run };
