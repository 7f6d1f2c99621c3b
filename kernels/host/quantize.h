/* out[t] = x[t] as int8 blocks or superblocks.
 *
 * Constants: COLUMNS, OUT_SUPER (1: superblocks); AT_LOGITS_ROWS where rows are those of which logits are asked, AT_OUTPUT_ROWS
 * where they are those of which outputs are read.
 * Arguments: x float32[T, COLUMNS], out. A work item is one token.
 */
#include "quantize_blocks.h"

#ifndef AT_LOGITS_ROWS
#define AT_LOGITS_ROWS 0
#endif

static int32_t quantize_items(const struct step *step) { return COUNT(step); }

static void quantize_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++) {
        const size_t t = (size_t)made_row(step, i);
        quantize_row((const float *)arguments[0] + t * COLUMNS, (char *)arguments[1] + t * Q8_BYTES(COLUMNS), COLUMNS);
    }
}
EXPORT const struct kernel SYMBOL = { quantize_items, quantize_run };
