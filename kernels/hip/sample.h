/* sampled[r] = a token drawn from logits[r] under step->sampling[r]; the semantics of kernels/host/sample.h.
 *
 * Constants: VOCAB_SIZE. Arguments: logits float32[R, VOCAB_SIZE] (biases and penalties are applied in place).
 * Grid: x 1, y logits.
 * Order of filters: mask, biases, penalties, temperature, top_k, top_p, min_p, typical_p, then one draw by inverse
 * distribution, in the order of the logits (equal ones by id) where top_k or top_p is on, else by id. A row with a NaN,
 * with +infinity or with nothing that is allowed and finite gives -1.
 *
 * Nothing is sorted. A place in the order is found digit by digit: a histogram of the next 8 bits of what is still
 * possible, of counts (top_k) or of weights (top_p, typical_p, the draw). Weights are integers, so
 * that sums have no order.
 */
#include "host_memory.h"

#define THREADS 512
#define WAVES (THREADS / WAVE_SIZE)
#define COPIES 8 /* of the histogram: neighbouring lanes do not wait for each other */
#define LOGIT_LOADS 8 /* of a thread in flight */
#define LARGEST_FLOAT 3.402823466e38f
#define ID_BITS 24
#define WEIGHT_BITS 44 /* of the weight 1: 2^18 of them still fit in 64 bits, with room */
static_assert(VOCAB_SIZE <= 1 << 19, "a sum of weights must fit in 64 bits");

typedef GLOBAL_MEMORY float *logits_pointer;
typedef const CONSTANT_MEMORY struct sampling *sampling_pointer;

struct shared {
    uint64_t weights[256][COPIES];
    uint32_t counts[256][COPIES];
    uint64_t weight_above[257]; /* of bins b and higher */
    uint32_t count_above[257];
    float best[WAVES];
    int32_t ids[WAVES];
    uint64_t sums[WAVES];
    uint64_t found_weight;
    uint32_t found_count, found_size;
    int32_t found;
    float staged[LOGIT_LOADS][THREADS];
};

struct row {
    logits_pointer logits;
    const GLOBAL_MEMORY uint32_t *mask;
    float largest, temperature, min_p;
    float mean, farthest; /* typical_p: tokens whose x is farther than this from the mean weigh nothing */
    uint64_t cut;         /* places by logit below it are filtered out */
    int32_t order;        /* of places */
};
enum { BY_LOGIT, BY_ID, BY_DISTANCE };

/* Hands on this thread's tokens with their logits: minus infinity for those that are masked, and for numbers past the
 * last token; NaN and infinity stay. Loads are on their way together and then wait in LDS, where no other thread touches
 * them: so a pass over the logits waits for memory once in LOGIT_LOADS tokens, and what it does with one is in the code
 * once. */
template <class Taker> INLINE void each_logit(const struct row *row, struct shared *lds, const Taker &take)
{
    const int32_t own = thread_index(), last = VOCAB_SIZE - 1;
    NO_UNROLL_FOR (int32_t first = 0; first < VOCAB_SIZE; first += LOGIT_LOADS * THREADS) {
        float logits[LOGIT_LOADS];
        uint32_t words[LOGIT_LOADS];
        UNROLL_FOR (int n = 0; n < LOGIT_LOADS; n++) {
            logits[n] = row->logits[int_min(first + n * THREADS + own, last)];
            words[n] = ~0u;
        }
        if (row->mask)
            UNROLL_FOR (int n = 0; n < LOGIT_LOADS; n++)
                words[n] = row->mask[int_min(first + n * THREADS + own, last) / 32];
        UNROLL_FOR (int n = 0; n < LOGIT_LOADS; n++) { /* THREADS is a multiple of 32 */
            const bool allowed = first + n * THREADS + own < VOCAB_SIZE && words[n] >> (own % 32) & 1;
            lds->staged[n][own] = allowed || !(logits[n] <= LARGEST_FLOAT) ? logits[n] : -__builtin_inff();
        }
        NO_UNROLL_FOR (int32_t n = 0; n < LOGIT_LOADS; n++) take(first + n * THREADS + own, lds->staged[n][own]);
    }
}
#define EACH_LOGIT(row, lds, ...) each_logit(row, lds, [&] INLINE_MEMBER(int32_t id, float logit) __VA_ARGS__)

INLINE float scaled(const struct row *row, float logit) { return (logit - row->largest) / row->temperature; }

INLINE uint64_t place_of(uint32_t key, int32_t id)
{
    return (uint64_t)key << ID_BITS | ((1u << ID_BITS) - 1 - (uint32_t)id);
}

/* Greater is earlier. No two tokens share a place; 0 is no place: the token is masked, -infinity or cut off. */
INLINE uint64_t place(const struct row *row, int32_t id, float logit)
{
    if (!(logit >= -LARGEST_FLOAT)) return 0;
    if (row->order == BY_ID) return place_of(0, id);
    const uint32_t bits = (uint32_t)to_bits(logit + 0.0f); /* + 0: the zeros are equal */
    const uint64_t by_logit = place_of(bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u), id);
    if (by_logit < row->cut) return 0;
    if (row->order == BY_LOGIT) return by_logit;
    return place_of(~(uint32_t)to_bits(float_abs(scaled(row, logit) - row->mean)), id);
}

/* A number from 0 to 1 in units of 2^-WEIGHT_BITS. */
INLINE uint64_t in_units(float weight)
{
    const int32_t bits = to_bits(weight), shift = (bits >> 23) - 150 + WEIGHT_BITS;
    const uint64_t mantissa = (uint64_t)((bits & 0x7fffff) | 0x800000);
    return shift >= 0 ? mantissa << shift : shift > -24 ? mantissa >> -shift : 0;
}

/* e^x in units, with x = (logit - largest) / temperature; 0 for what min_p or typical_p filters out. */
INLINE uint64_t weigh(const struct row *row, float logit)
{
    const float x = scaled(row, logit), weight = float_exp(x);
    if (!(x > -87.0f) || weight < row->min_p || float_abs(x - row->mean) > row->farthest) return 0;
    return in_units(weight);
}

/* Minus x e^x in units, of what weighs something; at most 1 / e. */
INLINE uint64_t weigh_distance(const struct row *row, float logit)
{
    const float x = scaled(row, logit);
    return weigh(row, logit) ? in_units(-x * float_exp(x)) : 0;
}

INLINE void save_logits(logits_pointer logits, sampling_pointer s)
{
    const int32_t num_seen = s->num_seen;
    for (int32_t i = thread_index(); i < num_seen; i += THREADS) s->originals[i] = logits[s->seen_tokens[i]];
    for (int32_t i = thread_index(); i < s->num_biases; i += THREADS)
        s->originals[num_seen + i] = logits[s->bias_tokens[i]];
}

INLINE void restore_logits(logits_pointer logits, sampling_pointer s)
{
    const int32_t num_seen = s->num_seen;
    for (int32_t i = thread_index(); i < num_seen; i += THREADS) logits[s->seen_tokens[i]] = s->originals[i];
    for (int32_t i = thread_index(); i < s->num_biases; i += THREADS)
        logits[s->bias_tokens[i]] = s->originals[num_seen + i];
}

/* Biases, then penalties. */
INLINE void adjust(logits_pointer logits, sampling_pointer s)
{
    for (int32_t i = thread_index(); i < s->num_biases; i += THREADS) logits[s->bias_tokens[i]] += s->biases[i];
    __syncthreads();
    for (int32_t i = thread_index(); i < s->num_seen; i += THREADS) {
        logits_pointer logit = logits + s->seen_tokens[i];
        const int32_t count = s->seen_counts[i];
        float value = *logit > 0 ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
        if (count) value -= s->presence_penalty + s->frequency_penalty * (float)count;
        *logit = value;
    }
}

INLINE void take_better(float *best, int32_t *id, float other, int32_t other_id)
{
    if (other_id < 0 || (*id >= 0 && (other > *best || (other == *best && other_id < *id)))) {
        *best = other;
        *id = other_id;
    }
}

template <int MASK> INLINE void best_of_lanes(float *best, int32_t *id)
{
    take_better(best, id, shuffle_xor<MASK>(*best), shuffle_xor<MASK>(*id));
    if constexpr (MASK > 1) best_of_lanes<MASK / 2>(best, id);
}

template <int MASK> INLINE uint64_t sum_of_lanes(uint64_t x)
{
    const uint32_t low = (uint32_t)shuffle_xor<MASK>((int32_t)x),
                   high = (uint32_t)shuffle_xor<MASK>((int32_t)(x >> 32));
    x += (uint64_t)high << 32 | low;
    if constexpr (MASK > 1) return sum_of_lanes<MASK / 2>(x);
    return x;
}

/* The greatest logit of what is allowed, the lowest id of equals; -1 as said above. */
INLINE int32_t most_likely(const struct row *row, struct shared *lds)
{
    float best = -LARGEST_FLOAT;
    int32_t found = VOCAB_SIZE; /* none yet; -1: never any */
    EACH_LOGIT(row, lds, {
        if (!(logit <= LARGEST_FLOAT)) found = -1;
        if (found >= 0 && (logit > best || (logit == best && id < found))) {
            best = logit;
            found = id;
        }
    });
    best_of_lanes<WAVE_SIZE / 2>(&best, &found);
    if (lane_index() == 0) {
        lds->best[wave_index()] = best;
        lds->ids[wave_index()] = found;
    }
    __syncthreads();
    best = lds->best[0];
    found = lds->ids[0];
    for (int32_t w = 1; w < WAVES; w++) take_better(&best, &found, lds->best[w], lds->ids[w]);
    return found < VOCAB_SIZE ? found : -1;
}

enum { COUNTS, WEIGHTS, DISTANCES };

/* Of all tokens from the cut on: how many, what they weigh, or the sum of minus x e^x. */
INLINE uint64_t total(const struct row *row, struct shared *lds, const int what)
{
    uint64_t sum = 0;
    EACH_LOGIT(row, lds, {
        if (place(row, id, logit))
            sum += what == COUNTS ? 1 : what == WEIGHTS ? weigh(row, logit) : weigh_distance(row, logit);
    });
    sum = sum_of_lanes<WAVE_SIZE / 2>(sum);
    __syncthreads();
    if (lane_index() == 0) lds->sums[wave_index()] = sum;
    __syncthreads();
    sum = 0;
    for (int32_t w = 0; w < WAVES; w++) sum += lds->sums[w];
    return sum;
}

/* Counts and weights of the bins, each with all higher ones. */
INLINE void sum_bins(struct shared *lds)
{
    const int32_t bin = thread_index();
    uint64_t weight = 0;
    uint32_t count = 0;
    if (bin < 256)
        UNROLL_FOR (int i = 0; i < COPIES; i++) {
            weight += lds->weights[bin][i];
            count += lds->counts[bin][i];
        }
    if (bin <= 256) {
        lds->weight_above[bin] = weight;
        lds->count_above[bin] = count;
    }
    for (int32_t distance = 1; distance < 256; distance *= 2) {
        __syncthreads();
        if (bin + distance < 256) {
            weight += lds->weight_above[bin + distance];
            count += lds->count_above[bin + distance];
        }
        __syncthreads();
        if (bin < 256) {
            lds->weight_above[bin] = weight;
            lds->count_above[bin] = count;
        }
    }
    __syncthreads();
}

/* In descending order of places from the cut on: the one at which the count (or weight) before it and its own first
 * exceed `goal`. Returns a place at or below that token's and above the next one's. */
INLINE uint64_t find(const struct row *row, struct shared *lds, uint64_t goal, const bool by_weight)
{
    uint64_t prefix = 0;
    uint64_t before = 0;
    NO_UNROLL_FOR (int32_t shift = row->order == BY_ID ? ID_BITS - 8 : ID_BITS + 24; shift >= 0; shift -= 8) {
        for (int32_t i = thread_index(); i < 256 * COPIES; i += THREADS) {
            lds->weights[i / COPIES][i % COPIES] = 0;
            lds->counts[i / COPIES][i % COPIES] = 0;
        }
        __syncthreads();
        EACH_LOGIT(row, lds, {
            const uint64_t at = place(row, id, logit);
            if (!at || at >> (shift + 8) != prefix) return;
            const uint64_t weight = by_weight ? weigh(row, logit) : 1;
            if (!weight) return;
            const int32_t bin = (int32_t)(at >> shift) & 255, copy = thread_index() % COPIES;
            lds_add(&lds->counts[bin][copy], (uint32_t)1);
            if (by_weight) lds_add(&lds->weights[bin][copy], weight);
        });
        __syncthreads();
        sum_bins(lds);
        const int32_t bin = thread_index();
        if (bin < 256) {
            const uint64_t above = by_weight ? lds->weight_above[bin + 1] : lds->count_above[bin + 1];
            const uint64_t here = by_weight ? lds->weight_above[bin] : lds->count_above[bin];
            if (before + above <= goal && goal < before + here) {
                lds->found = bin;
                lds->found_weight = above;
                lds->found_size = lds->count_above[bin] - lds->count_above[bin + 1];
            }
        }
        __syncthreads();
        prefix = prefix << 8 | (uint32_t)lds->found;
        before += lds->found_weight;
        const bool alone = lds->found_size == 1;
        __syncthreads();
        if (alone) return prefix << shift;
    }
    return prefix;
}

/* The token of the lowest place from `lowest` on that weighs something. */
INLINE int32_t token_at(const struct row *row, struct shared *lds, uint64_t lowest)
{
    uint64_t nearest = ~(uint64_t)0;
    EACH_LOGIT(row, lds, {
        const uint64_t at = place(row, id, logit);
        if (at && at >= lowest && at < nearest && weigh(row, logit)) nearest = at;
    });
    if (thread_index() == 0) lds->found_weight = ~(uint64_t)0;
    __syncthreads();
    lds_minimum(&lds->found_weight, nearest);
    __syncthreads();
    return (1 << ID_BITS) - 1 - (int32_t)(lds->found_weight & ((1u << ID_BITS) - 1));
}

/* SplitMix64's finalizer over seed and counter; 53 bits. */
INLINE uint64_t random_bits(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return z >> 11;
}

/* Fewest units of weight that make the share top_p of `all`. */
INLINE uint64_t share(float top_p, uint64_t all)
{
    const double exact = (double)top_p * (double)all;
    const uint64_t enough = (uint64_t)exact;
    return enough + ((double)enough < exact);
}

/* Locally typical sampling, as kernels/host/sample.h has it. */
INLINE void keep_typical(struct row *row, struct shared *lds, float typical_p)
{
    const uint64_t all = total(row, lds, WEIGHTS), sum = total(row, lds, DISTANCES);
    const uint64_t enough = share(typical_p, all);
    const int32_t order = row->order;
    row->mean = -(float)((double)sum / (double)all);
    row->order = BY_DISTANCE;
    const uint64_t last = find(row, lds, enough ? enough - 1 : 0, true);
    row->farthest = from_bits((int32_t)~(uint32_t)(last >> ID_BITS));
    row->order = order;
}

INLINE int32_t draw(struct row *row, struct shared *lds, sampling_pointer s)
{
    const int32_t top_k = s->top_k;
    const float top_p = s->top_p, min_p = s->min_p;
    const bool limited = top_k > 0 && top_k < VOCAB_SIZE;
    row->order = !limited && !(top_p < 1) ? BY_ID : BY_LOGIT;
    if (limited && total(row, lds, COUNTS) > (uint64_t)top_k) row->cut = find(row, lds, (uint64_t)top_k - 1, false);
    if (top_p < 1) {
        const uint64_t enough = share(top_p, total(row, lds, WEIGHTS));
        const uint64_t nucleus = find(row, lds, enough ? enough - 1 : 0, true);
        if (nucleus > row->cut) row->cut = nucleus;
    }
    row->min_p = min_p < 1 ? min_p : 1.0f;
    if (s->typical_p < 1) keep_typical(row, lds, s->typical_p);
    const uint64_t kept = total(row, lds, WEIGHTS);
    const uint64_t goal = multiply_high(random_bits(s->seed, s->counter) << 11, kept);
    return token_at(row, lds, find(row, lds, goal, true));
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ struct shared lds;
    const int32_t r = group_y();
    if (r >= STEP->num_logits) return;
    sampling_pointer s = STEP->sampling + r;
    struct row row = {
        (logits_pointer)a0 + (size_t)r * VOCAB_SIZE, s->mask, 0, s->temperature, 0, 0, __builtin_inff(), 0, BY_ID
    };
    if (s->mask)
        copy_from_host(s->mask, s->mask_image, (VOCAB_SIZE + 31) / 32, THREADS); /* the first barrier is below */
    if (s->originals) {
        save_logits(row.logits, s);
        __syncthreads();
    }
    adjust(row.logits, s);
    __syncthreads();
    int32_t token = most_likely(&row, &lds);
    if (token >= 0 && row.temperature > 0) {
        row.largest = row.logits[token];
        token = draw(&row, &lds, s);
    }
    if (thread_index() == 0) STEP->sampled[r] = token;
    if (s->originals) {
        __syncthreads();
        restore_logits(row.logits, s);
    }
}
