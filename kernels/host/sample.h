/* sampled[r] = a token drawn from logits[r] under step->sampling[r].
 *
 * Constants: VOCAB_SIZE. Arguments: logits float32[R, VOCAB_SIZE] (penalties are applied in place),
 * scratch int32[R, VOCAB_SIZE].
 * Order of filters: penalties, temperature, top_k, top_p, min_p, then one draw by inverse distribution from a
 * counter-based generator: the same seed and counter give the same token whatever else is in the batch.
 * A row with a NaN gives -1: the engine fails that request rather than emit a guess.
 */
#include "vector.h"

static int32_t sample_items(const struct step *step) { return step->num_logits; }

/* SplitMix64's finalizer over seed and counter; 24 bits give a float in [0, 1). */
static float uniform(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * 0x1p-24f;
}

static void apply_penalties(float *logits, const struct sampling *s)
{
    for (int32_t i = 0; i < s->num_seen; i++) {
        float *logit = logits + s->seen_tokens[i];
        *logit = *logit > 0 ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
        if (s->seen_counts[i]) *logit -= s->presence_penalty + s->frequency_penalty * (float)s->seen_counts[i];
    }
}

static int32_t most_likely(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 0; i < VOCAB_SIZE; i++) {
        if (logits[i] != logits[i]) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

/* Greater logit first, then the smaller id: a total order. */
ALWAYS_INLINE int before(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

/* Heap with the last in order at its root. */
static void sift_down(const float *logits, int32_t *heap, int32_t size, int32_t i)
{
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= size) return;
        if (child + 1 < size && before(logits, heap[child], heap[child + 1])) child++;
        if (!before(logits, heap[i], heap[child])) return;
        const int32_t swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

/* The first `limit` of all ids whose logit is at least `floor`, in order. Returns how many. */
static int32_t sort_candidates(const float *logits, float floor, int32_t limit, int32_t *ids)
{
    int32_t size = 0;
    for (int32_t i = 0; i < VOCAB_SIZE; i++) {
        if (logits[i] < floor) continue;
        if (size < limit) {
            ids[size++] = i;
            if (size == limit)
                for (int32_t j = size / 2 - 1; j >= 0; j--) sift_down(logits, ids, size, j);
        } else if (before(logits, i, ids[0])) {
            ids[0] = i;
            sift_down(logits, ids, size, 0);
        }
    }
    if (size < limit)
        for (int32_t j = size / 2 - 1; j >= 0; j--) sift_down(logits, ids, size, j);
    for (int32_t n = size - 1; n > 0; n--) {
        const int32_t swap = ids[0];
        ids[0] = ids[n];
        ids[n] = swap;
        sift_down(logits, ids, n, 0);
    }
    return size;
}

static float natural_log(float x) /* of x in (0, 1], to a few digits: only a cheap lower bound is made of it */
{
    union { float f; int32_t i; } bits = { x };
    return ((float)(bits.i - 0x3f800000) * 0x1p-23f) * 0.69314718f - 0.07f;
}

static int32_t sample_row(float *logits, int32_t *ids, const struct sampling *s)
{
    apply_penalties(logits, s);
    const int32_t best = most_likely(logits);
    if (best < 0 || s->temperature <= 0) return best;
    const float largest = logits[best], inverse = 1.0f / s->temperature;
    const int32_t limit = s->top_k > 0 && s->top_k < VOCAB_SIZE ? s->top_k : VOCAB_SIZE;
    /* All tokens below this logit together weigh less than what top_p leaves out: no nucleus reaches them. */
    const float tail = (1.0f - s->top_p) / VOCAB_SIZE;
    const float floor = tail > 1e-30f ? largest + natural_log(tail) * s->temperature : -__builtin_inff();
    const int32_t size = sort_candidates(logits, floor, limit, ids);
    float total = 0;
    if (limit < VOCAB_SIZE || s->top_p >= 1)
        for (int32_t i = 0; i < size; i++) total += vector_exp(splat((logits[ids[i]] - largest) * inverse))[0];
    else
        for (int32_t i = 0; i < VOCAB_SIZE; i++) total += vector_exp(splat((logits[i] - largest) * inverse))[0];
    float kept = 0;
    int32_t count = 0;
    while (count < size) {
        const float weight = vector_exp(splat((logits[ids[count]] - largest) * inverse))[0];
        if (count && (weight < s->min_p || kept >= s->top_p * total)) break;
        kept += weight;
        count++;
    }
    const float goal = uniform(s->seed, s->counter) * kept;
    float reached = 0;
    for (int32_t i = 0; i < count; i++) {
        reached += vector_exp(splat((logits[ids[i]] - largest) * inverse))[0];
        if (reached > goal) return ids[i];
    }
    return ids[count - 1];
}

static void sample_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t r = begin; r < end; r++)
        step->sampled[r] = sample_row((float *)arguments[0] + (size_t)r * VOCAB_SIZE,
                                      (int32_t *)arguments[1] + (size_t)r * VOCAB_SIZE, step->sampling + r);
}
EXPORT const struct kernel SYMBOL = { sample_items, sample_run };
