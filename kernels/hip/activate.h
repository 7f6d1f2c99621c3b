/* out[t] = activation(x[t]), as int8 blocks or float32.
 *
 * Constants: COLUMNS, THREADS, ACTIVATION_<NAME> with its own, OUT_Q8, AT_LOGITS_ROWS (1: rows are those of which logits
 * are asked). Arguments: x float32[T, COLUMNS], out. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "activation.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= COUNT(STEP) || c >= COLUMNS) return;
    const size_t at = (size_t)token * COLUMNS + c;
    const float value = activation(((const GLOBAL_MEMORY float *)a0)[at]);
    if (OUT_Q8)
        quantize_lane(value, (GLOBAL_MEMORY struct q8_block *)a1 + at / 32);
    else
        ((GLOBAL_MEMORY float *)a1)[at] = value;
}
