/* low[t, k] = scale * (A[k] . x[t]), for the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: COLUMNS, WAVE_SIZE, those of lora.h. Arguments: x float32[T, COLUMNS], A float16[RANKS, COLUMNS rounded up to
 * 16s], segments, units float32[segments], low float32[T, RANKS]. Grid: x RANKS, of one wave each, y rows.
 */
#include "lora.h"

#define A_STRIDE ((COLUMNS + 15) / 16 * 16)

KERNEL(WAVE_SIZE) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t t = group_y(), k = group_x();
    if (t >= COUNT(STEP)) return;
    const CONSTANT_MEMORY float *scales = adapter_scales(STEP, t);
    if (!scales) return;
    const CONSTANT_MEMORY lora_segment *segments = (const CONSTANT_MEMORY lora_segment *)a2;
    int32_t segment = NUM_SEGMENTS - 1;
    while (segments[segment].first_rank > k) segment--;
    const float scale = scales[segments[segment].adapter];
    if (scale == 0) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)t * COLUMNS;
    const GLOBAL_MEMORY _Float16 *a = (const GLOBAL_MEMORY _Float16 *)a1 + (size_t)k * A_STRIDE;
    float sum = 0;
    for (int32_t c = 8 * lane_index(); c < COLUMNS; c += 8 * WAVE_SIZE) {
        const f16x8 eight = *(const GLOBAL_MEMORY f16x8 *)(a + c);
        UNROLL_FOR (int i = 0; i < 8; i++)
            if (COLUMNS % 8 == 0 || c + i < COLUMNS) sum = float_fma(x[c + i], (float)eight[i], sum);
    }
    sum = wave_sum(sum);
    const float factor = scale * ((const GLOBAL_MEMORY float *)a3)[segment];
    if (lane_index() == 0) ((GLOBAL_MEMORY float *)a4)[(size_t)t * RANKS + k] = factor * sum;
}
