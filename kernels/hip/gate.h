/* out[t] = activation(gate[t]) * up[t], for weights whose types keep gate and up apart.
 *
 * Constants: COLUMNS, THREADS, ACTIVATION_<NAME>.
 * Arguments: x float32[T, 2 * COLUMNS] (gate, then up), out float32[T, COLUMNS].
 * Grid: x = COLUMNS / THREADS, y tokens.
 */
#include "activation.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const GLOBAL_MEMORY float *gate = (const GLOBAL_MEMORY float *)a0 + (size_t)token * (2 * COLUMNS);
    ((GLOBAL_MEMORY float *)a1)[(size_t)token * COLUMNS + c] = activation(gate[c]) * gate[COLUMNS + c];
}
