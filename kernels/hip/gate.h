/* out[t] = activation(gate[t]) * up[t], for weights whose types keep gate and up apart.
 *
 * Constants: COLUMNS, THREADS, ACTIVATION_<NAME>; where there are such LIMIT (of gate, and of up both ways) and UP_OFFSET
 * (added to up).
 * Arguments: x float32[T, 2 * COLUMNS] (gate, then up), out float32[T, COLUMNS].
 * Grid: x = COLUMNS / THREADS, y tokens.
 */
#include "activation.h"

#ifdef UP_OFFSET
#define offset(x) ((x) + UP_OFFSET)
#else
#define offset(x) (x)
#endif
#ifdef LIMIT
INLINE float at_most(float x) { return x > LIMIT ? LIMIT : x; }
INLINE float within(float x) { return x > LIMIT ? LIMIT : x < -LIMIT ? -LIMIT : x; }
#else
#define at_most(x) (x)
#define within(x) (x)
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const GLOBAL_MEMORY float *gate = (const GLOBAL_MEMORY float *)a0 + (size_t)token * (2 * COLUMNS);
    ((GLOBAL_MEMORY float *)a1)[(size_t)token * COLUMNS + c] =
        activation(at_most(gate[c])) * offset(within(gate[COLUMNS + c]));
}
