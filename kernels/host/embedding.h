/* out[t] = row token_ids[t] of the token embedding.
 *
 * Constants: COLUMNS; SCALE where rows are times a number. Arguments: weights, out float32[T, COLUMNS]. A work item is one token.
 */
#include "weights.h"

static int32_t embedding_items(const struct step *step) { return step->num_tokens; }

static void embedding_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t t = begin; t < end; t++) {
        const int32_t row = step->token_ids[t];
        const uint8_t *tile = (const uint8_t *)arguments[0] + (size_t)(row / 16) * TILE_BYTES;
        dequantize_row(tile, row % 16, (float *)arguments[1] + (size_t)t * COLUMNS);
#ifdef SCALE
        for (int32_t c = 0; c < COLUMNS; c++) ((float *)arguments[1])[(size_t)t * COLUMNS + (size_t)c] *= SCALE;
#endif
    }
}
EXPORT const struct kernel SYMBOL = { embedding_items, embedding_run };
