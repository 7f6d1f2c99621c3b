/* out[t, g] = x[t, g] * sqrt(mean(like[t]^2) / max(mean(x[t, g]^2), LEAST)); where JOINED behind like[t].
 *
 * Constants: COLUMNS (of a group), GROUPS, LEAST, JOINED.
 * Arguments: x float32[T, GROUPS, COLUMNS], like float32[T, COLUMNS], out float32[T, GROUPS + JOINED, COLUMNS].
 * A work item is one row.
 */
#include "vector.h"

static int32_t magnitude_items(const struct step *step) { return step->num_tokens; }

static float mean_square(const float *x)
{
    f32x16 squares = splat(0);
    int32_t c = 0;
    for (; c + 16 <= COLUMNS; c += 16) squares = vector_fma(load_f32(x + c), load_f32(x + c), squares);
    float sum = horizontal_sum(squares);
    for (; c < COLUMNS; c++) sum += x[c] * x[c];
    return sum / COLUMNS;
}

static void magnitude_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *like = (const float *)arguments[1] + (size_t)t * COLUMNS, goal = mean_square(like);
        float *out = (float *)arguments[2] + (size_t)t * ((GROUPS + JOINED) * COLUMNS);
        if (JOINED)
            for (int32_t c = 0; c < COLUMNS; c++) *out++ = like[c];
        for (int32_t group = 0; group < GROUPS; group++) {
            const float *x = (const float *)arguments[0] + ((size_t)t * GROUPS + group) * COLUMNS;
            const float mean = mean_square(x), scale = __builtin_sqrtf(goal / (mean < LEAST ? LEAST : mean));
            for (int32_t c = 0; c < COLUMNS; c++) *out++ = x[c] * scale;
        }
    }
}
EXPORT const struct kernel SYMBOL = { magnitude_items, magnitude_run };
