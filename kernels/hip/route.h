/* The experts of a token: out[t, j] is the weight of the j-th one chosen, out[t, USED + j] its number.
 *
 * Constants: EXPERTS, USED (at most 32), SCORING_SOFTMAX, SCORING_SIGMOID or SCORING_CHOSEN, HAS_BIAS, NORMALISE, SCALE,
 * GROUPS (at most 32), GROUPS_USED, SHARED (where it is given: so many neighbours are one); see compiler/ops/route.py. Arguments: logits float32[T, EXPERTS], out float32[T, 2 * USED], bias float32[EXPERTS].
 * Grid: y tokens, of one wave. Of equal scores the first is chosen; one that is not a number is below all others.
 */
#include "prelude.h"

#define LANE_EXPERTS ((EXPERTS + WAVE_SIZE - 1) / WAVE_SIZE)
#if !defined(SCORING_SOFTMAX) && !defined(SCORING_SIGMOID) && !defined(SCORING_CHOSEN)
#error "expected a SCORING"
#endif
#define GROUP_SIZE (EXPERTS / GROUPS)
#define LOWEST (-3.4e38f)
#ifndef SHARED
#define SHARED 1
#endif

/* A rank and whose it is; nobody's is below all. */
struct best {
    float rank;
    int32_t index;
};

INLINE void take_better(struct best *best, float rank, int32_t index)
{
    const bool better = rank > best->rank || (rank == best->rank && index < best->index);
    best->rank = better ? rank : best->rank;
    best->index = better ? index : best->index;
}

/* The best of all lanes', the same in all of them: no rank is NaN. */
INLINE struct best wave_best(struct best best)
{
    if (WAVE_SIZE == 64) take_better(&best, shuffle_xor<32>(best.rank), shuffle_xor<32>(best.index));
    take_better(&best, shuffle_xor<16>(best.rank), shuffle_xor<16>(best.index));
    take_better(&best, shuffle_xor<8>(best.rank), shuffle_xor<8>(best.index));
    take_better(&best, shuffle_xor<4>(best.rank), shuffle_xor<4>(best.index));
    take_better(&best, shuffle_xor<2>(best.rank), shuffle_xor<2>(best.index));
    take_better(&best, shuffle_xor<1>(best.rank), shuffle_xor<1>(best.index));
    return best;
}

/* The best of experts [begin, end) that this wave has not taken; lane's expert i is i * WAVE_SIZE + lane. */
INLINE struct best best_of(const float ranks[LANE_EXPERTS], uint32_t taken, int32_t begin, int32_t end)
{
    struct best best = { -__builtin_inff(), EXPERTS };
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) {
        const int32_t expert = i * WAVE_SIZE + lane_index();
        if (expert >= begin && expert < end && !(taken >> i & 1)) take_better(&best, ranks[i], expert);
    }
    return wave_best(best);
}

INLINE uint32_t taking(uint32_t taken, int32_t expert)
{
    return expert % WAVE_SIZE == lane_index() ? taken | 1u << expert / WAVE_SIZE : taken;
}

/* The experts of all groups but those with the largest sums of their two best, as taken. */
INLINE uint32_t other_groups(const float ranks[LANE_EXPERTS])
{
    float sums[GROUPS];
    uint32_t kept = 0, taken = 0;
    UNROLL_FOR (int g = 0; g < GROUPS; g++) {
        const struct best first = best_of(ranks, 0, g * GROUP_SIZE, (g + 1) * GROUP_SIZE);
        sums[g] = first.rank + best_of(ranks, taking(0, first.index), g * GROUP_SIZE, (g + 1) * GROUP_SIZE).rank;
    }
    NO_UNROLL_FOR (int n = 0; n < GROUPS_USED; n++) {
        struct best best = { -__builtin_inff(), GROUPS };
        UNROLL_FOR (int g = 0; g < GROUPS; g++)
            if (!(kept >> g & 1)) take_better(&best, sums[g], g);
        kept |= 1u << best.index;
    }
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++)
        if (!(kept >> int_min((i * WAVE_SIZE + lane_index()) / GROUP_SIZE, GROUPS - 1) & 1)) taken |= 1u << i;
    return taken;
}

/* The score of this lane's expert i, all lanes' softmax where it is that. */
INLINE void score(float scores[LANE_EXPERTS])
{
#if defined(SCORING_SOFTMAX)
    float top = scores[0], total = 0;
    UNROLL_FOR (int i = 1; i < LANE_EXPERTS; i++) top = float_max(top, scores[i]);
    top = wave_max(top);
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) {
        scores[i] = i * WAVE_SIZE + lane_index() < EXPERTS ? float_exp(scores[i] - top) : 0;
        total += scores[i];
    }
    total = wave_sum(total);
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) scores[i] = scores[i] / total;
#elif defined(SCORING_SIGMOID)
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) scores[i] = 1.0f / (1.0f + float_exp(-scores[i]));
#endif
}

KERNEL(WAVE_SIZE) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), lane = lane_index();
    if (token >= STEP->num_tokens) return;
    const GLOBAL_MEMORY float *logits = (const GLOBAL_MEMORY float *)a0 + (size_t)token * EXPERTS;
    float scores[LANE_EXPERTS], ranks[LANE_EXPERTS];
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) {
        const int32_t expert = i * WAVE_SIZE + lane;
        scores[i] = expert < EXPERTS ? logits[expert] : LOWEST;
    }
    score(scores);
    UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) {
        const int32_t expert = int_min(i * WAVE_SIZE + lane, EXPERTS - 1);
        const float rank = HAS_BIAS ? scores[i] + ((const GLOBAL_MEMORY float *)a2)[expert] : scores[i];
        ranks[i] = rank == rank ? rank : LOWEST;
    }
    uint32_t taken = GROUPS > 1 ? other_groups(ranks) : 0;
    float weight = 0; /* of the expert that is chosen as this lane's number says */
    int32_t mine = 0;
    NO_UNROLL_FOR (int32_t j = 0; j < USED; j++) {
        const int32_t chosen = best_of(ranks, taken, 0, EXPERTS).index, expert = chosen / SHARED;
        taken = taking(taken, chosen);
        float found = 0;
        UNROLL_FOR (int i = 0; i < LANE_EXPERTS; i++) found = i * WAVE_SIZE + lane == expert ? scores[i] : found;
        found = wave_sum(found);
        weight = lane == j ? found : weight;
        mine = lane == j ? expert : mine;
    }
#if defined(SCORING_CHOSEN)
    const float top = wave_max(lane < USED ? weight : LOWEST), power = lane < USED ? float_exp(weight - top) : 0;
    weight = power / wave_sum(power);
#endif
    const float total = wave_sum(lane < USED ? weight : 0);
    if (NORMALISE) weight = weight / (total < 0x1p-14f ? 0x1p-14f : total);
    if (lane < USED) {
        GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a1 + (size_t)token * (2 * USED);
        out[lane] = weight * SCALE;
        out[USED + lane] = (float)mine;
    }
}
