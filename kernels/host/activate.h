/* out[t] = activation(x[t]), as int8 blocks or float32.
 *
 * Constants: COLUMNS, ACTIVATION_<NAME> with its own, OUT_Q8, AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, COLUMNS], out. A work item is one row.
 */
#include "activation.h"
#include "quantize_blocks.h"

static int32_t activate_items(const struct step *step) { return COUNT(step); }

/* Args: columns: no more than are made int8 at once. */
INLINE void activate_columns(const float *x, char *out, const int32_t columns)
{
    float values[32 * BLOCKS_AT_ONCE] __attribute__((aligned(64)));
    for (int32_t c = 0; c < columns; c += 16) store_f32(values + c, activation(load_some(x, c, columns)));
    if (OUT_Q8)
        quantize_row(values, (struct q8_block *)out, columns);
    else
        __builtin_memcpy(out, values, (size_t)columns * sizeof *values);
}

static void activate_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    const int32_t step_columns = 32 * BLOCKS_AT_ONCE, rest = COLUMNS % step_columns;
    const size_t block_bytes = OUT_Q8 ? sizeof(struct q8_block) : 32 * sizeof(float);
    for (int32_t t = begin; t < end; t++) {
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        char *out = (char *)arguments[1] + (size_t)t * COLUMNS * block_bytes / 32;
        int32_t c = 0;
        for (; c + step_columns <= COLUMNS; c += step_columns)
            activate_columns(x + c, out + (size_t)c * block_bytes / 32, step_columns);
        if (rest) activate_columns(x + c, out + (size_t)c * block_bytes / 32, rest);
    }
}
EXPORT const struct kernel SYMBOL = { activate_items, activate_run };
