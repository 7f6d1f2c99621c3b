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
 * KV blocks: [block, kv head], each as in kv_blocks.h.
 * Grid: x = heads / 4, where NORM_ROWS 1, y tokens; a wave takes one head, where NORM_ROWS every fourth.
 */
#include "kv_blocks.h"
#include "rope_options.h"

#define THREADS (4 * WAVE_SIZE)
#define HEADS (NUM_HEADS + (VALUES_IN_KEYS ? 1 : 2) * NUM_KV_HEADS)
#define QUERIES (NUM_HEADS * HEAD_DIM)
#define KEYS (NUM_KV_HEADS * HEAD_DIM)
#define ROW (QUERIES + KEYS + (VALUES_IN_KEYS ? 0 : NUM_KV_HEADS * VALUE_DIM))
#define OWN_WEIGHTS (NORM_ROWS || PER_HEAD) /* of a head; else all share them */

typedef GLOBAL_MEMORY float *float_pointer;
typedef const GLOBAL_MEMORY float *number_pointer;
typedef GLOBAL_MEMORY kv_element *element_pointer;
#if KV_Q8_0
typedef float key_element;
typedef key_element *key_pointer; /* in LDS: a scale is known when the whole head is */
#define KEY_OFFSET(d) (d)
#else
typedef kv_element key_element;
typedef element_pointer key_pointer; /* its head's part of the block, from its position on */
#define KEY_OFFSET(d) ((d) / 8 * 128 + (d) % 8)
#endif

#ifdef SECTIONS
/* The cosines and sines of a token, each pair's of the position that its section has. */
struct token_cosines {
    number_pointer table;
    const CONSTANT_MEMORY int32_t *positions;
    int32_t stride;
};

INLINE number_pointer cosine_row(const token_cosines &own, int32_t i)
{
    return own.table + (size_t)own.positions[section_axis(i, SECTIONS) * own.stride] * ROPE_DIM;
}

INLINE struct token_cosines cosines_of(step_pointer step, int32_t token, number_pointer table)
{
    if (step->rope_positions) return { table, step->rope_positions + token, step->num_tokens };
    return { table, step->positions + token, 0 };
}
#else
typedef number_pointer token_cosines;

INLINE number_pointer cosine_row(token_cosines own, int32_t) { return own; }
#endif

/* A head of queries or of keys, and what is done to it. */
struct head {
    number_pointer x, weight, bias;
    token_cosines cosines;
    float mean, inverse; /* of the norm */
};

/* Where a head goes, element by element. */
struct goal {
    float_pointer query;
    key_pointer key;
    float temperature;
    INLINE_MEMBER void take(int32_t d, float value)
    {
        if (query)
            query[d] = TEMPERATURE ? value * temperature : value;
        else
            key[KEY_OFFSET(d)] = (key_element)value;
    }
};

/* Sums of elements, and of the squares of how far they are from the mean. */
struct sums {
    float mean, sum, squares;
    INLINE_MEMBER void take(int32_t, float value)
    {
        sum += value;
        value = NORM_LAYER ? value - mean : value;
        squares = float_fma(value, value, squares);
    }
};

INLINE float element(number_pointer x, int32_t d)
{
    const float value = x[d];
    return CLAMP > 0 ? (value > CLAMP ? CLAMP : value < -CLAMP ? -CLAMP : value) : value;
}

INLINE float normed(const struct head &head, int32_t d, float value)
{
    value = (NORM_LAYER ? value - head.mean : value) * head.inverse;
    if (!WEIGHTLESS) value *= head.weight[d];
    return NORM_BIAS ? value + head.bias[d] : value;
}

INLINE float before_rotation(const struct head &head, int32_t d)
{
    const float value = element(head.x, d);
    return QK_NORM && !NORM_AFTER ? normed(head, d, value) : value;
}

/* Hands on each element of a head, rotated. */
template <class Taker> INLINE void rotate_head(const struct head &head, Taker &taker)
{
    for (int32_t i = lane_index(); i < ROPE_DIM / 2; i += WAVE_SIZE) {
        const int32_t first = ROPE_FIRST + (INTERLEAVED ? 2 * i : i);
        const int32_t second = INTERLEAVED ? first + 1 : first + ROPE_DIM / 2;
        const float a = before_rotation(head, first), b = before_rotation(head, second);
        const number_pointer row = cosine_row(head.cosines, i);
        const float cosine = row[i], sine = row[ROPE_DIM / 2 + i];
        taker.take(first, a * cosine - b * sine);
        taker.take(second, a * sine + b * cosine);
    }
    for (int32_t d = lane_index(); d < ROPE_FIRST; d += WAVE_SIZE) taker.take(d, before_rotation(head, d));
    for (int32_t d = ROPE_FIRST + ROPE_DIM + lane_index(); d < HEAD_DIM; d += WAVE_SIZE)
        taker.take(d, before_rotation(head, d));
}

/* The same after the norm that follows. */
struct normed_goal {
    const struct head &head;
    struct goal &goal;
    INLINE_MEMBER void take(int32_t d, float value) { goal.take(d, normed(head, d, value)); }
};

/* What a norm sums, over `heads` heads from `first` on. */
INLINE struct sums sum_heads(struct head head, int32_t heads, float mean)
{
    struct sums sums = { mean, 0, 0 };
    if (!NORM_AFTER)
        for (int32_t d = lane_index(); d < heads * HEAD_DIM; d += WAVE_SIZE) sums.take(d, element(head.x, d));
    for (int32_t h = 0; NORM_AFTER && h < heads; h++, head.x += HEAD_DIM) rotate_head(head, sums);
    return sums;
}

INLINE void measure(struct head &head, int32_t heads)
{
    const float count = (float)(heads * HEAD_DIM);
    head.mean = NORM_LAYER ? wave_sum(sum_heads(head, heads, 0).sum) / count : 0.0f;
    head.inverse = 1.0f / float_sqrt(wave_sum(sum_heads(head, heads, head.mean).squares) / count + EPSILON);
}

INLINE void place_head(const struct head &head, struct goal &goal)
{
    struct normed_goal last = { head, goal };
    if (QK_NORM && NORM_AFTER)
        rotate_head(head, last);
    else
        rotate_head(head, goal);
}

#if KV_Q8_0
/* Nearest integer, ties away from zero, for |v| < 2^31. */
INLINE int32_t round_away(float v)
{
    const int32_t whole = (int32_t)v;
    const float rest = v - (float)whole; /* exact */
    return whole + (rest >= 0.5f) - (rest <= -0.5f);
}

/* A key or a value into its head of a block, as GGUF's Q8_0 has it; 32 neighbouring lanes share a scale. What is not
 * finite makes the scale so. The reciprocal of a subnormal scale may be no number; float16 has 0 for such a scale, so
 * the quants may be 0 too. */
template <bool IS_KEY, class Source> INLINE void store_head(Source x, element_pointer head, int32_t position)
{
    for (int32_t d = lane_index(); d < (IS_KEY ? HEAD_DIM : VALUE_DIM); d += WAVE_SIZE) {
        const float value = x[d];
        int32_t top = to_bits(float_abs(value));
        top = int_max(top, shuffle_xor<16>(top));
        top = int_max(top, shuffle_xor<8>(top));
        top = int_max(top, shuffle_xor<4>(top));
        top = int_max(top, shuffle_xor<2>(top));
        const float scale = from_bits(int_max(top, shuffle_xor<1>(top))) / 127.0f;
        const float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
        head[IS_KEY ? d / 8 * 128 + position * 8 + d % 8 : position * VALUE_WIDTH + d] =
            (int8_t)round_away(value * inverse);
        if (d % 32 == 0)
            ((GLOBAL_MEMORY _Float16 *)(head + (IS_KEY ? KEY_ELEMENTS : VALUE_ELEMENTS)))[d / 32 * 16 + position] =
                (_Float16)scale;
    }
}
#endif

/* Elements of a value. */
struct value_elements {
    number_pointer x;
    float inverse; /* of its norm */
    INLINE_MEMBER float operator[](int32_t d) const { return VALUE_NORM ? element(x, d) * inverse : element(x, d); }
};

INLINE float value_inverse(number_pointer x)
{
    if (!VALUE_NORM) return 1;
    float squares = 0;
    for (int32_t d = lane_index(); d < VALUE_DIM; d += WAVE_SIZE)
        squares = float_fma(element(x, d), element(x, d), squares);
    return 1.0f / float_sqrt(wave_sum(squares) / VALUE_DIM + EPSILON);
}

INLINE void place_key(const struct head &head, element_pointer keys, int32_t position)
{
#if KV_Q8_0
    __shared__ float staged[4][HEAD_DIM];
    struct goal goal = { 0, staged[wave_index()], 1 };
    place_head(head, goal);
    sync_wave();
    store_head<true>(staged[wave_index()], keys, position % 16);
    sync_wave();
#else
    struct goal goal = { 0, keys + position % 16 * 8, 1 };
    place_head(head, goal);
    for (int32_t d = HEAD_DIM + lane_index(); d < KEY_WIDTH; d += WAVE_SIZE) goal.take(d, 0);
#endif
}

INLINE void place_value(number_pointer x, element_pointer values, int32_t position)
{
    const struct value_elements elements = { x, value_inverse(x) };
#if KV_Q8_0
    store_head<false>(elements, values, position % 16);
#else
    const element_pointer value = values + position % 16 * VALUE_WIDTH;
    for (int32_t d = lane_index(); d < VALUE_DIM; d += WAVE_SIZE) value[d] = (_Float16)elements[d];
    for (int32_t d = VALUE_DIM + lane_index(); d < VALUE_WIDTH; d += WAVE_SIZE) value[d] = 0;
#endif
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y();
    if (token >= STEP->num_tokens) return;
    const int32_t position = STEP->positions[token];
    const int32_t block = STEP->block_table[(size_t)STEP->rows[token] * STEP->blocks_per_row + position / 16];
    const float_pointer row = (float_pointer)a0 + (size_t)token * ROW;
#ifdef SECTIONS
    const token_cosines cosines = cosines_of(STEP, token, (number_pointer)a1);
#else
    const token_cosines cosines = (number_pointer)a1 + (size_t)position * ROPE_DIM;
#endif
    const number_pointer key_biases = (number_pointer)a6 + (OWN_WEIGHTS ? QUERIES : HEAD_DIM);
    const float temperature = TEMPERATURE ? ((number_pointer)a7)[position] : 1.0f;
    struct head queries = { row, (number_pointer)a4, (number_pointer)a6, cosines, 0, 1 };
    struct head keys = { row + QUERIES, (number_pointer)a5, key_biases, cosines, 0, 1 };
    if (QK_NORM && NORM_ROWS) {
        measure(queries, NUM_HEADS);
        if (NUM_KV_HEADS) measure(keys, NUM_KV_HEADS);
        __syncthreads(); /* queries are overwritten from here on */
    }
    for (int32_t index = group_x() * 4 + wave_index(); index < HEADS; index += NORM_ROWS ? 4 : HEADS) {
        struct head own = index < NUM_HEADS ? queries : keys;
        const int32_t h = index < NUM_HEADS ? index : (index - NUM_HEADS) % (NUM_KV_HEADS ? NUM_KV_HEADS : 1);
        own.x += h * HEAD_DIM;
        own.weight += OWN_WEIGHTS ? h * HEAD_DIM : 0;
        own.bias += OWN_WEIGHTS ? h * HEAD_DIM : 0;
        if (QK_NORM && !NORM_ROWS && index < NUM_HEADS + NUM_KV_HEADS) measure(own, 1);
        const size_t at = (size_t)block * NUM_KV_HEADS + h;
        if (index < NUM_HEADS) {
            struct goal goal = { row + h * HEAD_DIM, 0, temperature };
            place_head(own, goal);
        } else if (index < NUM_HEADS + NUM_KV_HEADS) {
            place_key(own, (element_pointer)a2 + at * KEY_SIZE, position);
        } else {
            place_value(row + QUERIES + KEYS + h * VALUE_DIM, (element_pointer)a3 + at * VALUE_SIZE, position);
        }
    }
}
