/* out[t] = activation(x[t]), as int8 blocks, int8 superblocks or float32.
 *
 * Constants: COLUMNS, ACTIVATION_<NAME> with its own, OUT_Q8, OUT_SUPER (1: superblocks), AT_LOGITS_ROWS (1: rows are
 * those of which logits are asked); AT_OUTPUT_ROWS where they are those of which outputs are read.
 * Arguments: x float32[T, COLUMNS], out. A work item is one row.
 */
#include "activation.h"
#include "quantize_blocks.h"

static int32_t activate_items(const struct step *step) { return COUNT(step); }

/* Columns from `first` on, no more than are made int8 at once. */
INLINE void activate_columns(const float *x, char *out, const int32_t first, const int32_t columns)
{
    float values[COLUMNS_AT_ONCE] __attribute__((aligned(64)));
    for (int32_t c = 0; c < columns; c += 16) store_f32(values + c, activation(load_some(x + first, c, columns)));
    if (OUT_Q8)
        quantize_columns(values, out, first, columns);
    else
        __builtin_memcpy((float *)out + first, values, (size_t)columns * sizeof *values);
}

static void activate_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const size_t stride = OUT_Q8 ? Q8_BYTES(COLUMNS) : COLUMNS * sizeof(float);
    for (int32_t i = begin; i < end; i++) {
        const int32_t t = made_row(step, i);
        const float *x = (const float *)arguments[0] + (size_t)t * COLUMNS;
        char *out = (char *)arguments[1] + (size_t)t * stride;
        FOR_COLUMNS(COLUMNS, first, count, activate_columns(x, out, first, count));
    }
}
EXPORT const struct kernel SYMBOL = { activate_items, activate_run };
