/* Rotates queries and keys, writes keys and values into the paged cache; queries stay in place.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS (0: queries alone), HEAD_DIM, ROPE_DIM (0: nothing rotates), INTERLEAVED (pairs
 * (2i, 2i+1); else (i, i + ROPE_DIM/2)), QK_NORM (norm of queries and keys), EPSILON, KV_Q8_0. Those of kv_blocks.h.
 * Where they are given: ROPE_FIRST (element from which on ROPE_DIM rotate), CLAMP (what is farther from 0 is put there
 * first), NORM_LAYER (the mean is taken away first; else an RMS norm), NORM_ROWS (over all heads; else over each),
 * NORM_AFTER (the rotation; else before it), PER_HEAD (a head's own weights and biases; else all share them),
 * WEIGHTLESS, NORM_BIAS, VALUE_NORM (a weightless RMS norm of values), TEMPERATURE, SECTIONS (pairs that rotate by each
 * of the step's rope_positions), SECTIONS_INTERLEAVED.
 * Arguments: qkv float32[T, queries, keys, values], table float32[max_seq_len, ROPE_DIM] (cosines, then sines), key
 * blocks, value blocks, query norm, key norm: float32[HEAD_DIM] or of all heads; biases of both, temperatures
 * float32[max_seq_len], which queries are multiplied with at the end.
 * KV blocks: [block, kv head], each as in kv_blocks.h. A work item is one token.
 */
#include "kv_blocks.h"
#include "rope_options.h"

#define QUERIES (NUM_HEADS * HEAD_DIM)
#define KEYS (NUM_KV_HEADS * HEAD_DIM)
#define VALUES (VALUES_IN_KEYS ? 0 : NUM_KV_HEADS * VALUE_DIM)

static int32_t rope_kv_items(const struct step *step) { return step->num_tokens; }

INLINE float mean_square(const float *x, int32_t count)
{
    f32x16 squares = splat(0);
    for (int32_t c = 0; c < count; c += 16) {
        const f32x16 v = load_some(x, c, count);
        squares = vector_fma(v, v, squares);
    }
    return horizontal_sum(squares) / (float)count;
}

INLINE void take_mean_away(float *x, int32_t count)
{
    f32x16 sums = splat(0);
    for (int32_t c = 0; c < count; c += 16) sums += load_some(x, c, count);
    const float mean = horizontal_sum(sums) / (float)count;
    for (int32_t c = 0; c < count; c++) x[c] -= mean;
}

/* The norm of `count` elements; `bias` where NORM_BIAS. */
INLINE void normalize(float *x, int32_t count, const float *weight, const float *bias)
{
    if (NORM_LAYER) take_mean_away(x, count);
    const float inverse = 1.0f / __builtin_sqrtf(mean_square(x, count) + EPSILON);
    for (int32_t c = 0; c < count; c++) x[c] = WEIGHTLESS ? x[c] * inverse : x[c] * inverse * weight[c];
    for (int32_t c = 0; NORM_BIAS && c < count; c++) x[c] += bias[c];
}

static void normalize_heads(float *x, int32_t heads, const float *weights, const float *biases)
{
    if (NORM_ROWS) {
        normalize(x, heads * HEAD_DIM, weights, biases);
        return;
    }
    for (int32_t h = 0; h < heads; h++) {
        const int32_t own = PER_HEAD ? h * HEAD_DIM : 0;
        normalize(x + h * HEAD_DIM, HEAD_DIM, weights + own, biases + own);
    }
}

static void rotate_head(float *x, const float *cosines)
{
    const float *sines = cosines + ROPE_DIM / 2;
    x += ROPE_FIRST;
    for (int32_t i = 0; i < ROPE_DIM / 2; i++) {
        float *first = INTERLEAVED ? x + 2 * i : x + i, *second = INTERLEAVED ? first + 1 : first + ROPE_DIM / 2;
        const float a = *first, b = *second;
        *first = a * cosines[i] - b * sines[i];
        *second = a * sines[i] + b * cosines[i];
    }
}

#ifdef SECTIONS
/* The cosines and sines of a token, each pair's of the position that its section has. */
static void mix_sections(const struct step *step, const float *table, int32_t t, float *mixed)
{
    const int32_t *positions = step->rope_positions ? step->rope_positions : step->positions;
    const int32_t stride = step->rope_positions ? step->num_tokens : 0;
    for (int32_t i = 0; i < ROPE_DIM / 2; i++) {
        const float *row = table + (size_t)positions[section_axis(i, SECTIONS) * stride + t] * ROPE_DIM;
        mixed[i] = row[i];
        mixed[ROPE_DIM / 2 + i] = row[ROPE_DIM / 2 + i];
    }
}
#endif

/* What becomes of queries, or of keys, before they are used. */
INLINE void place(float *x, int32_t heads, const float *weights, const float *biases, const float *cosines)
{
    if (QK_NORM && !NORM_AFTER) normalize_heads(x, heads, weights, biases);
    for (int32_t h = 0; h < heads; h++) rotate_head(x + h * HEAD_DIM, cosines);
    if (QK_NORM && NORM_AFTER) normalize_heads(x, heads, weights, biases);
}

static void clamp_row(float *x)
{
    for (int32_t c = 0; c < QUERIES + KEYS + VALUES; c++) x[c] = x[c] > CLAMP ? CLAMP : x[c] < -CLAMP ? -CLAMP : x[c];
}

static void store_kv(const struct step *step, void *const *arguments, int32_t t, const float *key, float *value)
{
    const int32_t position = step->positions[t];
    const int32_t block = step->block_table[(size_t)step->rows[t] * step->blocks_per_row + position / 16];
    uint8_t *keys = (uint8_t *)arguments[2] + block * KEY_BLOCK_BYTES;
    uint8_t *values = (uint8_t *)arguments[3] + block * VALUE_BLOCK_BYTES;
    for (int32_t h = 0; h < NUM_KV_HEADS; h++) {
        float *own = value + h * VALUE_DIM;
        store_key(keys + (size_t)h * KEY_BYTES, position % 16, key + h * HEAD_DIM);
        if (VALUES_IN_KEYS) continue;
        if (VALUE_NORM) {
            const float inverse = 1.0f / __builtin_sqrtf(mean_square(own, VALUE_DIM) + EPSILON);
            for (int32_t c = 0; c < VALUE_DIM; c++) own[c] *= inverse;
        }
        store_value(values + (size_t)h * VALUE_BYTES, position % 16, own);
    }
}

static void rope_kv_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    const float *query_norm = arguments[4], *key_norm = arguments[5], *biases = arguments[6];
    for (int32_t t = begin; t < end; t++) {
        float *query = (float *)arguments[0] + (size_t)t * (QUERIES + KEYS + VALUES);
        const int32_t position = step->positions[t];
#ifdef SECTIONS
        float cosines[ROPE_DIM];
        mix_sections(step, arguments[1], t, cosines);
#else
        const float *cosines = (const float *)arguments[1] + (size_t)position * ROPE_DIM;
#endif
        if (CLAMP > 0) clamp_row(query);
        place(query, NUM_HEADS, query_norm, biases, cosines);
        if (NUM_KV_HEADS) {
            place(query + QUERIES, NUM_KV_HEADS, key_norm, biases + (NORM_ROWS || PER_HEAD ? QUERIES : HEAD_DIM),
                  cosines);
            store_kv(step, arguments, t, query + QUERIES, query + QUERIES + KEYS);
        }
        const float *temperatures = arguments[7];
        for (int32_t c = 0; TEMPERATURE && c < QUERIES; c++) query[c] *= temperatures[position];
    }
}
EXPORT const struct kernel SYMBOL = { rope_kv_items, rope_kv_run };
