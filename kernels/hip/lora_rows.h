/* low[t] = scale * A[token_ids[t]], for the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: WAVE_SIZE, those of lora.h. Arguments: A float16[tokens of the vocabulary, RANKS] and 16 more, segments, units
 * float32[segments], low float32[T, RANKS]. Grid: x 1, of one wave, y tokens.
 */
#include "lora.h"

KERNEL(WAVE_SIZE) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t t = group_y();
    if (t >= STEP->num_tokens) return;
    const CONSTANT_MEMORY float *scales = adapter_scales(STEP, t);
    if (!scales) return;
    const CONSTANT_MEMORY lora_segment *segments = (const CONSTANT_MEMORY lora_segment *)a1;
    const GLOBAL_MEMORY _Float16 *a = (const GLOBAL_MEMORY _Float16 *)a0 + (size_t)STEP->token_ids[t] * RANKS;
    GLOBAL_MEMORY float *low = (GLOBAL_MEMORY float *)a3 + (size_t)t * RANKS;
    for (int32_t segment = 0; segment < NUM_SEGMENTS; segment++) {
        const float scale = scales[segments[segment].adapter];
        if (scale == 0) continue;
        const float factor = scale * ((const GLOBAL_MEMORY float *)a2)[segment];
        const int32_t first = segments[segment].first_rank;
        for (int32_t k = lane_index(); k < segments[segment].ranks; k += WAVE_SIZE)
            low[first + k] = factor * (float)a[first + k];
    }
}
