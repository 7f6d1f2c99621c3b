/* out[t] = x[t] as int8 blocks.
 *
 * Constants: COLUMNS, THREADS; AT_LOGITS_ROWS where rows are those of which logits are asked.
 * Arguments: x float32[T, COLUMNS], out. Grid: x = COLUMNS / THREADS, y tokens.
 */
#include "prelude.h"

#ifndef AT_LOGITS_ROWS
#define AT_LOGITS_ROWS 0
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= COUNT(STEP) || c >= COLUMNS) return;
    const float value = ((const GLOBAL_MEMORY float *)a0)[(size_t)token * COLUMNS + c];
    quantize_lane(value, (GLOBAL_MEMORY struct q8_block *)a1 + (size_t)token * (COLUMNS / 32) + c / 32);
}
