/* out[t] = queries and the key of latent attention: see compiler/ops/latent_heads.py.
 *
 * Constants: COLUMNS ((NUM_HEADS + 1) * (RANK + TAIL_DIM)), THREADS, NUM_HEADS, RANK, TAIL_DIM, ABSORBED (queries have
 * first parts; else these are 0). Arguments: tails of queries float32[T, heads, TAIL_DIM], latent float32[T, RANK], the
 * key's tail float32[T, TAIL_DIM], out float32[T, COLUMNS], first parts of queries float32[T, heads, RANK].
 * Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

typedef const GLOBAL_MEMORY float *number_pointer;

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const int32_t head = c / (RANK + TAIL_DIM), d = c % (RANK + TAIL_DIM);
    const bool of_query = head < NUM_HEADS;
    const size_t row = of_query ? (size_t)token * NUM_HEADS + head : (size_t)token;
    float value = 0;
    if (d >= RANK)
        value = ((number_pointer)(of_query ? a0 : a2))[row * TAIL_DIM + d - RANK];
    else if (ABSORBED || !of_query)
        value = ((number_pointer)(of_query ? a4 : a1))[row * RANK + d];
    ((GLOBAL_MEMORY float *)a3)[(size_t)token * COLUMNS + c] = value;
}
