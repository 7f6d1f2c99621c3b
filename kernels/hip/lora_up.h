/* out[t] += low[t] B, of the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: COLUMNS, THREADS, those of lora.h. Arguments: low float32[T, RANKS], B float16 [ranks, columns] of each
 * segment, one behind the other; segments, out float32[T, COLUMNS]. Grid: x = COLUMNS / THREADS, y rows.
 */
#include "lora.h"

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t t = group_y(), c = group_x() * THREADS + thread_index();
    if (t >= COUNT(STEP) || c >= COLUMNS) return;
    const CONSTANT_MEMORY float *scales = adapter_scales(STEP, t);
    if (!scales) return;
    const GLOBAL_MEMORY float *low = (const GLOBAL_MEMORY float *)a0 + (size_t)t * RANKS;
    float sum = 0;
    bool any = false;
    NO_UNROLL_FOR (int32_t s = 0; s < NUM_SEGMENTS; s++) {
        const CONSTANT_MEMORY lora_segment &segment = ((const CONSTANT_MEMORY lora_segment *)a2)[s];
        const int32_t column = c - segment.first_column;
        if (scales[segment.adapter] == 0 || column < 0 || column >= segment.columns) continue;
        any = true;
        const GLOBAL_MEMORY _Float16 *b = (const GLOBAL_MEMORY _Float16 *)a1 + segment.first_b + column;
        NO_UNROLL_FOR (int32_t k = 0; k < segment.ranks; k++)
            sum = float_fma(low[segment.first_rank + k], (float)b[(size_t)k * segment.columns], sum);
    }
    if (any) ((GLOBAL_MEMORY float *)a3)[(size_t)t * COLUMNS + c] += sum;
}
