/* The experts of a token: out[t, j] is the weight of the j-th one chosen, out[t, USED + j] its number.
 *
 * Constants: EXPERTS, USED, SCORING_SOFTMAX, SCORING_SIGMOID or SCORING_CHOSEN, HAS_BIAS, NORMALISE, SCALE, GROUPS,
 * GROUPS_USED, SHARED (where it is given: so many neighbours are one), AT_OUTPUT_ROWS where only tokens are routed of which
 * outputs are read; see compiler/ops/route.py. Arguments: logits float32[T, EXPERTS], out float32[T, 2 * USED], bias
 * float32[EXPERTS]. A work item is one token. Of equal scores the first is chosen; one that is not a number is below all others.
 */
#include "vector.h"

#define PADDED ((EXPERTS + 15) / 16 * 16)
#if !defined(SCORING_SOFTMAX) && !defined(SCORING_SIGMOID) && !defined(SCORING_CHOSEN)
#error "expected a SCORING"
#endif
#define GROUP_SIZE (EXPERTS / GROUPS)
#define LOWEST (-3.4e38f)
#ifndef SHARED
#define SHARED 1
#endif

static int32_t route_items(const struct step *step) { return OUTPUT_COUNT(step); }

/* The largest of [begin, end) that is not taken; the first of equals. */
INLINE int32_t largest(const float *values, const uint8_t *taken, int32_t begin, int32_t end)
{
    int32_t best = -1;
    for (int32_t i = begin; i < end; i++)
        if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
    return best;
}

INLINE float sum_of_two_best(const float *ranks, uint8_t *taken, int32_t begin)
{
    const int32_t first = largest(ranks, taken, begin, begin + GROUP_SIZE);
    taken[first] = 1;
    const float sum = ranks[first] + ranks[largest(ranks, taken, begin, begin + GROUP_SIZE)];
    taken[first] = 0;
    return sum;
}

/* Take away the experts of all groups but those with the largest sums of their two best. */
INLINE void keep_groups(const float *ranks, uint8_t *taken)
{
    float sums[GROUPS];
    uint8_t kept[GROUPS] = { 0 };
    for (int32_t g = 0; g < GROUPS; g++) sums[g] = sum_of_two_best(ranks, taken, g * GROUP_SIZE);
    for (int32_t i = 0; i < GROUPS_USED; i++) kept[largest(sums, kept, 0, GROUPS)] = 1;
    for (int32_t e = 0; e < EXPERTS; e++) taken[e] = !kept[e / GROUP_SIZE];
}

INLINE void softmax(float *values, int32_t count)
{
    float top = values[0], total = 0;
    for (int32_t i = 1; i < count; i++) top = values[i] > top ? values[i] : top;
    for (int32_t i = 0; i < count; i += 16) {
        const f32x16 powers = vector_exp(load_f32(values + i) - top);
        store_f32(values + i, powers);
        for (int32_t r = 0; r < int_min(16, count - i); r++) total += powers[r];
    }
    for (int32_t i = 0; i < count; i++) values[i] /= total;
}

INLINE void route_token(const float *logits, const float *bias, float *out)
{
    float scores[PADDED] __attribute__((aligned(64))) = { 0 }, ranks[PADDED];
    float weights[(USED + 15) / 16 * 16] __attribute__((aligned(64))) = { 0 };
    uint8_t taken[PADDED] = { 0 };
    for (int32_t e = 0; e < EXPERTS; e++) scores[e] = logits[e];
#if defined(SCORING_SOFTMAX)
    softmax(scores, EXPERTS);
#elif defined(SCORING_SIGMOID)
    for (int32_t e = 0; e < EXPERTS; e += 16) store_f32(scores + e, 1.0f / (1.0f + vector_exp(-load_f32(scores + e))));
#endif
    for (int32_t e = 0; e < EXPERTS; e++) {
        const float rank = HAS_BIAS ? scores[e] + bias[e] : scores[e];
        ranks[e] = rank == rank ? rank : LOWEST;
    }
    if (GROUPS > 1) keep_groups(ranks, taken);
    float total = 0;
    for (int32_t j = 0; j < USED; j++) {
        const int32_t expert = largest(ranks, taken, 0, EXPERTS);
        taken[expert] = 1;
        weights[j] = scores[expert / SHARED];
        out[USED + j] = (float)(expert / SHARED);
    }
#if defined(SCORING_CHOSEN)
    softmax(weights, USED);
#endif
    for (int32_t j = 0; j < USED; j++) total += weights[j];
    if (total < 0x1p-14f) total = 0x1p-14f;
    for (int32_t j = 0; j < USED; j++) out[j] = (NORMALISE ? weights[j] / total : weights[j]) * SCALE;
}

static void route_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const float *bias = (const float *)arguments[2];
    for (int32_t i = begin; i < end; i++) {
        const size_t t = (size_t)made_row(step, i);
        route_token((const float *)arguments[0] + t * EXPERTS, bias, (float *)arguments[1] + t * (2 * USED));
    }
}
EXPORT const struct kernel SYMBOL = { route_items, route_run };
