/* Rotates queries and keys, writes keys and values into the paged cache; queries stay in place.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROPE_DIM, INTERLEAVED (pairs (2i, 2i+1); else (i, i + ROPE_DIM/2)),
 * QK_NORM (RMS norm of each head before the rotation), EPSILON, KV_Q8_0.
 * Arguments: qkv float32[T, (NUM_HEADS + 2 NUM_KV_HEADS) * HEAD_DIM], table float32[max_seq_len, ROPE_DIM] (cosines,
 * then sines), key blocks, value blocks, query norm float32[HEAD_DIM], key norm float32[HEAD_DIM].
 * KV blocks: [block, kv head], each as in kv_blocks.h.
 * Grid: x = heads / 4, y tokens; a wave takes one head.
 */
#include "kv_blocks.h"

#define THREADS (4 * WAVE_SIZE)
#define HEADS (NUM_HEADS + 2 * NUM_KV_HEADS)

typedef GLOBAL_MEMORY float *float_pointer;
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

/* Where a rotated head goes. */
struct goal {
    float_pointer query;
    key_pointer key;
};

INLINE void put(const struct goal *goal, int32_t d, float value)
{
    if (goal->query)
        goal->query[d] = value;
    else
        goal->key[KEY_OFFSET(d)] = (key_element)value;
}

INLINE void rotate_head(const GLOBAL_MEMORY float *x, const GLOBAL_MEMORY float *weight,
                        const GLOBAL_MEMORY float *cosines, const struct goal *goal)
{
    float inverse = 1;
    if (QK_NORM) {
        float squares = 0;
        for (int32_t d = lane_index(); d < HEAD_DIM; d += WAVE_SIZE) squares = float_fma(x[d], x[d], squares);
        inverse = 1.0f / __builtin_sqrtf(wave_sum(squares) / HEAD_DIM + EPSILON);
    }
    for (int32_t i = lane_index(); i < ROPE_DIM / 2; i += WAVE_SIZE) {
        const int32_t first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? first + 1 : i + ROPE_DIM / 2;
        const float a = QK_NORM ? x[first] * inverse * weight[first] : x[first];
        const float b = QK_NORM ? x[second] * inverse * weight[second] : x[second];
        const float cosine = cosines[i], sine = cosines[ROPE_DIM / 2 + i];
        put(goal, first, a * cosine - b * sine);
        put(goal, second, a * sine + b * cosine);
    }
    for (int32_t d = ROPE_DIM + lane_index(); d < HEAD_DIM; d += WAVE_SIZE)
        put(goal, d, QK_NORM ? x[d] * inverse * weight[d] : x[d]);
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
    for (int32_t d = lane_index(); d < HEAD_DIM; d += WAVE_SIZE) {
        const float value = x[d];
        int32_t top = to_bits(float_abs(value));
        top = int_max(top, shuffle_xor<16>(top));
        top = int_max(top, shuffle_xor<8>(top));
        top = int_max(top, shuffle_xor<4>(top));
        top = int_max(top, shuffle_xor<2>(top));
        const float scale = from_bits(int_max(top, shuffle_xor<1>(top))) / 127.0f;
        const float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
        head[IS_KEY ? d / 8 * 128 + position * 8 + d % 8 : position * HEAD_DIM + d] =
            (int8_t)round_away(value * inverse);
        if (d % 32 == 0)
            ((GLOBAL_MEMORY _Float16 *)(head + KV_HEAD_ELEMENTS))[d / 32 * 16 + position] = (_Float16)scale;
    }
}
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), head = group_x() * 4 + wave_index();
    if (token >= STEP->num_tokens || head >= HEADS) return;
    const int32_t position = STEP->positions[token];
    const int32_t block = STEP->block_table[(size_t)STEP->rows[token] * STEP->blocks_per_row + position / 16];
    float_pointer x = (float_pointer)a0 + ((size_t)token * HEADS + head) * HEAD_DIM;
    const GLOBAL_MEMORY float *cosines = (const GLOBAL_MEMORY float *)a1 + (size_t)position * ROPE_DIM;
    if (head < NUM_HEADS) {
        const struct goal goal = { x, 0 };
        rotate_head(x, (const GLOBAL_MEMORY float *)a4, cosines, &goal);
    } else if (head < NUM_HEADS + NUM_KV_HEADS) {
        const size_t at = (size_t)block * NUM_KV_HEADS + (head - NUM_HEADS);
        const element_pointer keys = (element_pointer)a2 + at * KV_HEAD_SIZE;
#if KV_Q8_0
        __shared__ float staged[4][HEAD_DIM];
        const struct goal goal = { 0, staged[wave_index()] };
        rotate_head(x, (const GLOBAL_MEMORY float *)a5, cosines, &goal);
        sync_wave();
        store_head<true>(staged[wave_index()], keys, position % 16);
#else
        const struct goal goal = { 0, keys + position % 16 * 8 };
        rotate_head(x, (const GLOBAL_MEMORY float *)a5, cosines, &goal);
#endif
    } else {
        const size_t at = (size_t)block * NUM_KV_HEADS + (head - NUM_HEADS - NUM_KV_HEADS);
        const element_pointer values = (element_pointer)a3 + at * KV_HEAD_SIZE;
#if KV_Q8_0
        store_head<false>(x, values, position % 16);
#else
        const element_pointer value = values + position % 16 * HEAD_DIM;
        for (int32_t d = lane_index(); d < HEAD_DIM; d += WAVE_SIZE) value[d] = (_Float16)x[d];
#endif
    }
}
