/* x[t, c] *= SCALE, then SOFTCAP * tanh(x / SOFTCAP), in place.
 *
 * Constants: COLUMNS, SCALE, SOFTCAP (0: none), AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, COLUMNS]. A work item is one row.
 */
#include "vector.h"

static int32_t logits_map_items(const struct step *step) { return COUNT(step); }

static void logits_map_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        float *x = (float *)arguments[0] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c += 16) {
            float values[16] __attribute__((aligned(64)));
            const int32_t valid = int_min(16, COLUMNS - c);
            for (int32_t i = 0; i < 16; i++) values[i] = i < valid ? x[c + i] : 0;
            f32x16 y = load_f32(values) * SCALE;
            if (SOFTCAP > 0) y = SOFTCAP * vector_tanh(y * (1.0f / SOFTCAP));
            store_f32(values, y);
            for (int32_t i = 0; i < valid; i++) x[c + i] = values[i];
        }
    }
}
EXPORT const struct kernel SYMBOL = { logits_map_items, logits_map_run };
