/* out[t] = activation(x[t]), as int8 blocks or float32.
 *
 * Constants: COLUMNS, ACTIVATION_<NAME> with its own, OUT_Q8, AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, COLUMNS], out. A work item is one row.
 */
#include "activation.h"

static int32_t activate_items(const struct step *step) { return COUNT(step); }

static void activate_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        float values[32] __attribute__((aligned(64)));
        for (int32_t c = 0; c < COLUMNS; c += 32) {
            const int32_t valid = int_min(32, COLUMNS - c);
            for (int32_t i = 0; i < 32; i++) values[i] = i < valid ? x[c + i] : 0;
            for (int i = 0; i < 32; i += 16) store_f32(values + i, activation(load_f32(values + i)));
            if (OUT_Q8)
                quantize_block(values, (struct q8_block *)arguments[1] + ((size_t)t * COLUMNS + (size_t)c) / 32);
            else
                for (int32_t i = 0; i < valid; i++)
                    ((float *)arguments[1])[(size_t)t * COLUMNS + (size_t)(c + i)] = values[i];
        }
    }
}
EXPORT const struct kernel SYMBOL = { activate_items, activate_run };
