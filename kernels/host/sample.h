/* sampled[r] = a token drawn from logits[r] under step->sampling[r].
 *
 * Constants: VOCAB_SIZE. Arguments: logits float32[R, VOCAB_SIZE] (biases and penalties are applied in place),
 * scratch int32[R, VOCAB_SIZE]. A work item is one row.
 * Order of filters: mask, biases, penalties, temperature, top_k, top_p, min_p, typical_p, then one draw by inverse
 * distribution from a counter-based generator: the same seed and counter give the same token whatever else is in
 * the batch. Candidates stand in order of their logits where top_k or top_p is on, else by id: then nothing is sorted.
 * A row with a NaN, with +infinity or with nothing that is allowed and finite gives -1: the engine fails that request
 * rather than emit a guess.
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

static void save_logits(const float *logits, const struct sampling *s)
{
    for (int32_t i = 0; i < s->num_seen; i++) s->originals[i] = logits[s->seen_tokens[i]];
    for (int32_t i = 0; i < s->num_biases; i++) s->originals[s->num_seen + i] = logits[s->bias_tokens[i]];
}

static void restore_logits(float *logits, const struct sampling *s)
{
    for (int32_t i = 0; i < s->num_seen; i++) logits[s->seen_tokens[i]] = s->originals[i];
    for (int32_t i = 0; i < s->num_biases; i++) logits[s->bias_tokens[i]] = s->originals[s->num_seen + i];
}

INLINE int allowed(const uint32_t *mask, int32_t id) { return !mask || (mask[id / 32] >> (id % 32) & 1); }

static void adjust(float *logits, const struct sampling *s)
{
    for (int32_t i = 0; i < s->num_biases; i++) logits[s->bias_tokens[i]] += s->biases[i];
    for (int32_t i = 0; i < s->num_seen; i++) {
        float *logit = logits + s->seen_tokens[i];
        *logit = *logit > 0 ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
        if (s->seen_counts[i]) *logit -= s->presence_penalty + s->frequency_penalty * (float)s->seen_counts[i];
    }
}

static int32_t most_likely(const float *logits, const uint32_t *mask)
{
    int32_t best = -1;
    for (int32_t i = 0; i < VOCAB_SIZE; i++) {
        if (!(logits[i] <= LARGEST_FLOAT)) return -1;
        if ((best < 0 ? logits[i] >= -LARGEST_FLOAT : logits[i] > logits[best]) && allowed(mask, i)) best = i;
    }
    return best;
}

/* Greater logit first, then the smaller id: a total order. */
INLINE int before(const float *logits, int32_t a, int32_t b)
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

/* The first `limit` of all allowed ids whose logit is at least `floor`, in order. Returns how many. */
static int32_t sort_candidates(const float *logits, const uint32_t *mask, float floor, int32_t limit, int32_t *ids)
{
    int32_t size = 0;
    for (int32_t i = 0; i < VOCAB_SIZE; i++) {
        if (logits[i] < floor || !allowed(mask, i)) continue;
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
    union {
        float f;
        int32_t i;
    } bits = { x };
    return ((float)(bits.i - 0x3f800000) * 0x1p-23f) * 0.69314718f - 0.07f;
}

struct candidates {
    const float *logits;
    const uint32_t *mask;
    const int32_t *ids; /* in the order of their weights; null: all tokens by id */
    int32_t size;
    float largest, temperature, min_p;
    float mean, farthest; /* typical_p: candidates whose x is farther than this from the mean are out */
};

/* Of candidates first .. first + 15, x = (logit - largest) / temperature and the weight e^x: 1 for the most likely,
 * -1 for what is filtered out. */
INLINE void weigh(const struct candidates *c, int32_t first, float xs[16], float weights[16])
{
    float logits[16];
    for (int32_t i = 0; i < 16; i++) {
        const int32_t at = int_min(first + i, c->size - 1);
        logits[i] = c->logits[c->ids ? c->ids[at] : at];
    }
    const f32x16 x = (load_f32(logits) - c->largest) / c->temperature;
    store_f32(xs, x);
    store_f32(weights, vector_select((i32x16)(x > -87.0f), vector_exp(x), splat(0)));
    for (int32_t i = 0; i < 16; i++) {
        const int masked = !c->ids && !allowed(c->mask, int_min(first + i, c->size - 1));
        if (masked || weights[i] < c->min_p || __builtin_fabsf(xs[i] - c->mean) > c->farthest) weights[i] = -1;
    }
}

/* Go through the candidates until together they weigh `enough` or pass `goal`. Returns what they weigh; the last
 * one is the *at-th. */
static double walk(const struct candidates *c, double enough, double goal, int32_t *at)
{
    double reached = 0;
    for (int32_t first = 0; first < c->size; first += 16) {
        float xs[16], weights[16];
        weigh(c, first, xs, weights);
        for (int32_t i = first; i < int_min(first + 16, c->size); i++) {
            if (weights[i - first] < 0) continue;
            reached += (double)weights[i - first];
            *at = i;
            if (reached >= enough || reached > goal) return reached;
        }
    }
    return reached;
}

/* Locally typical sampling (Meister et al. 2023): keep the fewest candidates that weigh typical_p of the `all`, those
 * first whose information is nearest to the entropy. Information is log(all) - x and entropy its mean, so that only
 * the distance of x from the weighted mean of x counts. Equally near ones stay together.
 * The distance that just suffices is found 8 bits of its float32 at a time: those of positive numbers sort
 * as they do. */
static void keep_typical(struct candidates *c, float typical_p, double all)
{
    float xs[16], weights[16];
    double sum = 0;
    for (int32_t first = 0; first < c->size; first += 16) {
        weigh(c, first, xs, weights);
        for (int32_t i = 0; i < int_min(16, c->size - first); i++)
            if (weights[i] > 0) sum += (double)weights[i] * (double)xs[i];
    }
    c->mean = (float)(sum / all);
    uint32_t prefix = 0;
    double nearer = 0;
    for (int32_t shift = 24; shift >= 0; shift -= 8) {
        double bins[256] = { 0 };
        for (int32_t first = 0; first < c->size; first += 16) {
            weigh(c, first, xs, weights);
            for (int32_t i = 0; i < int_min(16, c->size - first); i++) {
                union {
                    float f;
                    uint32_t u;
                } distance = { __builtin_fabsf(xs[i] - c->mean) };
                if (weights[i] > 0 && (uint64_t)distance.u >> (shift + 8) == prefix)
                    bins[distance.u >> shift & 255] += (double)weights[i];
            }
        }
        uint32_t bin = 0, last = 0;
        for (uint32_t b = 0; b < 256; b++)
            if (bins[b] > 0) last = b;
        for (; bin < last && (bins[bin] == 0 || nearer + bins[bin] < (double)typical_p * all); bin++)
            nearer += bins[bin];
        prefix = prefix << 8 | bin;
    }
    union {
        uint32_t u;
        float f;
    } farthest = { prefix };
    c->farthest = farthest.f;
}

static int32_t draw(const float *logits, int32_t *ids, int32_t best, const struct sampling *s)
{
    const double infinity = __builtin_inf();
    const int32_t limit = s->top_k > 0 && s->top_k < VOCAB_SIZE ? s->top_k : VOCAB_SIZE;
    struct candidates c = { logits, s->mask, 0, VOCAB_SIZE, logits[best], s->temperature, 0, 0, __builtin_inff() };
    int32_t at = best;
    double enough = infinity;
    if (limit < VOCAB_SIZE) {
        c.size = sort_candidates(logits, s->mask, -LARGEST_FLOAT, limit, ids);
        c.ids = ids;
        if (s->top_p < 1) enough = (double)s->top_p * walk(&c, infinity, infinity, &at);
    } else if (s->top_p < 1) {
        enough = (double)s->top_p * walk(&c, infinity, infinity, &at);
        /* All tokens below this logit together weigh less than what top_p leaves out: no nucleus reaches them. */
        const float tail = (1.0f - s->top_p) / VOCAB_SIZE;
        c.size = sort_candidates(logits, s->mask, logits[best] + natural_log(tail) * s->temperature, limit, ids);
        c.ids = ids;
    }
    c.min_p = s->min_p < 1 ? s->min_p : 1;
    double kept = walk(&c, enough, infinity, &at);
    if (s->typical_p < 1) {
        c.size = at + 1;
        keep_typical(&c, s->typical_p, kept);
        kept = walk(&c, infinity, infinity, &at);
        enough = infinity;
    }
    walk(&c, enough, uniform(s->seed, s->counter) * kept, &at);
    return c.ids ? c.ids[at] : at;
}

static int32_t sample_row(float *logits, int32_t *ids, const struct sampling *s)
{
    if (s->originals) save_logits(logits, s);
    adjust(logits, s);
    const int32_t best = most_likely(logits, s->mask);
    const int32_t token = best < 0 || s->temperature <= 0 ? best : draw(logits, ids, best, s);
    if (s->originals) restore_logits(logits, s);
    return token;
}

static void sample_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t r = begin; r < end; r++)
        step->sampled[r] = sample_row((float *)arguments[0] + (size_t)r * VOCAB_SIZE,
                                      (int32_t *)arguments[1] + (size_t)r * VOCAB_SIZE, step->sampling + r);
}
EXPORT const struct kernel SYMBOL = { sample_items, sample_run };
