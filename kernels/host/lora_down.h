/* low[t, k] = scale * (A[k] . x[t]), for the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: COLUMNS, those of lora.h. Arguments: x float32[T, COLUMNS], A float16[RANKS, COLUMNS rounded up to 16s],
 * segments, units float32[segments], low float32[T, RANKS]. A work item is one row of A for one row of x.
 */
#include "lora.h"

#define A_STRIDE ((COLUMNS + 15) / 16 * 16)

static int32_t lora_down_items(const struct step *step) { return step->adapter_scales ? COUNT(step) * RANKS : 0; }

static float lora_dot(const float *x, const uint16_t *a)
{
    f32x16 sum = splat(0);
    int32_t c = 0;
    for (; c + 16 <= COLUMNS; c += 16) sum = vector_fma(load_f32(x + c), load_f16(a + c), sum);
    if (COLUMNS % 16) {
        float rest[16] = { 0 };
        for (int32_t i = 0; c + i < COLUMNS; i++) rest[i] = x[c + i];
        sum = vector_fma(load_f32(rest), load_f16(a + c), sum);
    }
    return horizontal_sum(sum);
}

static void lora_down_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const struct lora_segment *segments = arguments[2];
    for (int32_t item = begin; item < end; item++) {
        const int32_t t = item / RANKS, k = item % RANKS;
        int32_t s = NUM_SEGMENTS - 1;
        while (segments[s].first_rank > k) s--;
        const float scale = adapter_scales(step, t)[segments[s].adapter];
        if (scale == 0) continue;
        const uint16_t *a = (const uint16_t *)arguments[1] + (size_t)k * A_STRIDE;
        const float factor = scale * ((const float *)arguments[3])[s];
        ((float *)arguments[4])[(size_t)t * RANKS + k] =
            factor * lora_dot((const float *)arguments[0] + (size_t)t * COLUMNS, a);
    }
}
EXPORT const struct kernel SYMBOL = { lora_down_items, lora_down_run };
