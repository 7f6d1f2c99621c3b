/* x[t, c] *= SCALE, then SOFTCAP * tanh(x / SOFTCAP), in place.
 *
 * Constants: COLUMNS, THREADS, SCALE, SOFTCAP (0: none), AT_LOGITS_ROWS (1: rows are those of which logits are asked).
 * Arguments: x float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= COUNT(STEP) || c >= COLUMNS) return;
    GLOBAL_MEMORY float *x = (GLOBAL_MEMORY float *)a0 + (size_t)token * COLUMNS + c;
    const float y = *x * SCALE;
    *x = SOFTCAP > 0 ? SOFTCAP * float_tanh(y * (1.0f / SOFTCAP)) : y;
}
