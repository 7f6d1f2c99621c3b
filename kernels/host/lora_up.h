/* out[t] += low[t] B, of the adapters that the sequence of t has; of others it stays as it is.
 *
 * Constants: COLUMNS, those of lora.h. Arguments: low float32[T, RANKS], B float16 [ranks, columns] of each segment, one
 * behind the other, and 16 zeros; segments, out float32[T, COLUMNS]. A work item is some columns of one row.
 */
#include "lora.h"

#define TILE 256
#define TILES ((COLUMNS + TILE - 1) / TILE)

static int32_t lora_up_items(const struct step *step) { return step->adapter_scales ? COUNT(step) * TILES : 0; }

/* Adds a segment's part of the columns [first, last) to `sums`, which begins with column `begin`. */
static void lora_add(const struct lora_segment *segment, const float *low, const uint16_t *b, float *sums,
                     int32_t begin, int32_t first, int32_t last)
{
    for (int32_t k = 0; k < segment->ranks; k++) {
        const f32x16 factor = splat(low[segment->first_rank + k]);
        const uint16_t *row = b + segment->first_b + (size_t)k * (size_t)segment->columns - segment->first_column;
        for (int32_t c = first; c < last; c += 16) {
            float *sum = sums + (c - begin);
            f32x16 values = load_f16(row + c);
            if (last - c < 16)
                for (int32_t i = last - c; i < 16; i++) values[i] = 0;
            store_f32(sum, vector_fma(factor, values, load_f32(sum)));
        }
    }
}

static void lora_up_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t item = begin; item < end; item++) {
        const int32_t t = item / TILES, from = item % TILES * TILE, to = int_min(from + TILE, COLUMNS);
        const float *scales = adapter_scales(step, t);
        float sums[TILE + 16];
        int32_t any = 0;
        for (int32_t s = 0; s < NUM_SEGMENTS; s++) {
            const struct lora_segment *segment = (const struct lora_segment *)arguments[2] + s;
            const int32_t after = segment->first_column + segment->columns;
            const int32_t first = from > segment->first_column ? from : segment->first_column;
            if (scales[segment->adapter] == 0 || first >= int_min(to, after)) continue;
            if (!any)
                for (int32_t i = 0; i < TILE + 16; i++) sums[i] = 0;
            any = 1;
            lora_add(segment, (const float *)arguments[0] + (size_t)t * RANKS, arguments[1], sums, from, first,
                     int_min(to, after));
        }
        float *out = (float *)arguments[3] + (size_t)t * COLUMNS;
        for (int32_t c = from; any && c < to; c++) out[c] += sums[c - from];
    }
}
EXPORT const struct kernel SYMBOL = { lora_up_items, lora_up_run };
