/* low[t] = scale * A[token_ids[t]], for the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: those of lora.h. Arguments: A float16[tokens of the vocabulary, RANKS] and 16 more, segments, units
 * float32[segments], low float32[T, RANKS]. A work item is one token.
 */
#include "lora.h"

static int32_t lora_rows_items(const struct step *step) { return step->adapter_scales ? step->num_tokens : 0; }

static void lora_rows_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const struct lora_segment *segments = arguments[1];
    for (int32_t t = begin; t < end; t++) {
        const uint16_t *a = (const uint16_t *)arguments[0] + (size_t)step->token_ids[t] * RANKS;
        float *low = (float *)arguments[3] + (size_t)t * RANKS;
        for (int32_t s = 0; s < NUM_SEGMENTS; s++) {
            const float scale = adapter_scales(step, t)[segments[s].adapter];
            if (scale == 0) continue;
            const f32x16 factor = splat(scale * ((const float *)arguments[2])[s]);
            const int32_t first = segments[s].first_rank, ranks = segments[s].ranks;
            for (int32_t k = 0; k < ranks; k += 16) {
                const f32x16 values = factor * load_f16(a + first + k);
                const int32_t count = ranks - k < 16 ? ranks - k : 16;
                __builtin_memcpy(low + first + k, &values, (size_t)count * sizeof *low);
            }
        }
    }
}
EXPORT const struct kernel SYMBOL = { lora_rows_items, lora_rows_run };
