/* sampled[r] = a token drawn from logits[r] under step->sampling[r].
 *
 * Constants: VOCAB_SIZE. Arguments: logits float32[R, VOCAB_SIZE] (penalties are applied in place),
 * scratch int32[R, VOCAB_SIZE].
 * Order of filters: penalties, temperature, top_k, top_p, min_p, then one draw by inverse distribution from a
 * counter-based generator: the same seed and counter give the same token whatever else is in the batch.
 * Candidates stand in order of their logits where top_k or top_p is on, else by id: then nothing is sorted.
 * A row with a NaN, with +infinity or with nothing but -infinity gives -1: the engine fails that request rather
 * than emit a guess.
 */
#include "vector.h"

static int32_t sample_items(const struct step *step) { return step->num_logits; }

#define LARGEST_FLOAT 3.402823466e38f

/* SplitMix64's finalizer over seed and counter; 53 bits give a double in [0, 1). */
static double uniform(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
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
        if (!(logits[i] <= LARGEST_FLOAT)) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    return logits[best] >= -LARGEST_FLOAT ? best : -1;
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

struct candidates {
    const float *logits;
    const int32_t *ids; /* in the order of their weights; null: all tokens by id */
    int32_t size;
    float largest, temperature;
};

/* Weights of candidates first .. first + 15: e^((logit - largest) / temperature), 1 for the most likely. */
ALWAYS_INLINE void weigh(const struct candidates *c, int32_t first, float weights[16])
{
    float logits[16];
    for (int32_t i = 0; i < 16; i++) {
        const int32_t at = minimum_int(first + i, c->size - 1);
        logits[i] = c->logits[c->ids ? c->ids[at] : at];
    }
    const f32x16 x = (load_f32(logits) - c->largest) / c->temperature;
    store_f32(weights, vector_select((i32x16)(x > -87.0f), vector_exp(x), splat(0)));
}

/* Go through the candidates that weigh at least min_p, until together they weigh `enough` or pass `goal`. Returns
 * what they weigh; the last one is *token. */
static double walk(const struct candidates *c, float min_p, double enough, double goal, int32_t *token)
{
    double reached = 0;
    for (int32_t first = 0; first < c->size; first += 16) {
        float weights[16];
        weigh(c, first, weights);
        for (int32_t i = first; i < minimum_int(first + 16, c->size); i++) {
            if (weights[i - first] < min_p) continue;
            reached += weights[i - first];
            *token = c->ids ? c->ids[i] : i;
            if (reached >= enough || reached > goal) return reached;
        }
    }
    return reached;
}

static int32_t sample_row(float *logits, int32_t *ids, const struct sampling *s)
{
    apply_penalties(logits, s);
    const int32_t best = most_likely(logits);
    if (best < 0 || s->temperature <= 0) return best;
    const double infinity = __builtin_inf();
    const int32_t limit = s->top_k > 0 && s->top_k < VOCAB_SIZE ? s->top_k : VOCAB_SIZE;
    struct candidates c = { logits, 0, VOCAB_SIZE, logits[best], s->temperature };
    int32_t token = best;
    double enough = infinity;
    if (limit < VOCAB_SIZE) {
        c.size = sort_candidates(logits, -LARGEST_FLOAT, limit, ids);
        c.ids = ids;
        if (s->top_p < 1) enough = s->top_p * walk(&c, 0, infinity, infinity, &token);
    } else if (s->top_p < 1) {
        enough = s->top_p * walk(&c, 0, infinity, infinity, &token);
        /* All tokens below this logit together weigh less than what top_p leaves out: no nucleus reaches them. */
        const float tail = (1.0f - s->top_p) / VOCAB_SIZE;
        c.size = sort_candidates(logits, logits[best] + natural_log(tail) * s->temperature, limit, ids);
        c.ids = ids;
    }
    const float min_p = s->min_p < 1 ? s->min_p : 1;
    const double kept = walk(&c, min_p, enough, infinity, &token);
    walk(&c, min_p, enough, uniform(s->seed, s->counter) * kept, &token);
    return token;
}

static void sample_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t r = begin; r < end; r++)
        step->sampled[r] = sample_row((float *)arguments[0] + (size_t)r * VOCAB_SIZE,
                                      (int32_t *)arguments[1] + (size_t)r * VOCAB_SIZE, step->sampling + r);
}
EXPORT const struct kernel SYMBOL = { sample_items, sample_run };
