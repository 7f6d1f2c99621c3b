/* out[t] = queries, keys and values of latent attention: see compiler/ops/latent_heads.py.
 *
 * Constants: COLUMNS (heads * (2 * HEAD_DIM + VALUE_DIM)), THREADS, NUM_HEADS, HEAD_DIM, TAIL_DIM (elements at a key's
 * end that all heads share), VALUE_DIM. Arguments: query float32[T, heads, HEAD_DIM], expanded float32[T, heads,
 * HEAD_DIM - TAIL_DIM + VALUE_DIM], tail float32[T, TAIL_DIM], out float32[T, COLUMNS].
 * Grid: x = COLUMNS / THREADS, y rows.
 */
#include "prelude.h"

#define OWN (HEAD_DIM - TAIL_DIM)
#define KEYS (NUM_HEADS * HEAD_DIM) /* and as many of queries */

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const GLOBAL_MEMORY float *query = (const GLOBAL_MEMORY float *)a0 + (size_t)token * KEYS;
    const GLOBAL_MEMORY float *expanded =
        (const GLOBAL_MEMORY float *)a1 + (size_t)token * (NUM_HEADS * (OWN + VALUE_DIM));
    const GLOBAL_MEMORY float *tail = (const GLOBAL_MEMORY float *)a2 + (size_t)token * TAIL_DIM;
    float value;
    if (c < KEYS) {
        value = query[c];
    } else if (c < 2 * KEYS) {
        const int32_t head = (c - KEYS) / HEAD_DIM, element = (c - KEYS) % HEAD_DIM;
        value = element < OWN ? expanded[head * (OWN + VALUE_DIM) + element] : tail[element - OWN];
    } else {
        const int32_t head = (c - 2 * KEYS) / VALUE_DIM, element = (c - 2 * KEYS) % VALUE_DIM;
        value = expanded[head * (OWN + VALUE_DIM) + OWN + element];
    }
    ((GLOBAL_MEMORY float *)a3)[(size_t)token * COLUMNS + c] = value;
}
