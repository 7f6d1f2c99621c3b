/* Rotates queries and keys, writes keys and values into the paged cache; queries stay in place.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROPE_DIM, ROPE_INTERLEAVED (pairs (2i, 2i+1); else (i, i + ROPE_DIM/2)),
 * QK_NORM (RMS norm of each head before the rotation), EPSILON.
 * Arguments: qkv float32[T, (NUM_HEADS + 2 NUM_KV_HEADS) * HEAD_DIM], table float32[max_seq_len, ROPE_DIM] (cosines, then
 * sines), key pages, value pages, query norm float32[HEAD_DIM], key norm float32[HEAD_DIM].
 * Pages, float16: keys [block, kv head, HEAD_DIM / 8, 16 positions, 8], values [block, kv head, 16 positions, HEAD_DIM].
 * Grid: x = heads / 4, y tokens; a wave takes one head.
 */
#include "prelude.h"

#define THREADS (4 * WAVE_SIZE)
#define HEADS (NUM_HEADS + 2 * NUM_KV_HEADS)
#define PAGE_HEAD (HEAD_DIM * 16) /* elements of one head of a page */

typedef GLOBAL_MEMORY float *float_pointer;
typedef GLOBAL_MEMORY _Float16 *half_pointer;

/* Where a key goes: its head's part of the page, from its position on. */
struct goal {
    float_pointer query;
    half_pointer key;
};

INLINE void put(const struct goal *goal, int32_t d, float value)
{
    if (goal->query)
        goal->query[d] = value;
    else
        goal->key[d / 8 * 128 + d % 8] = (_Float16)value;
}

INLINE void rotate_head(const GLOBAL_MEMORY float *x, const GLOBAL_MEMORY float *weight,
                        const GLOBAL_MEMORY float *cosines, const struct goal *goal)
{
    float inverse = 1;
    if (QK_NORM) {
        float squares = 0;
        for (int32_t d = lane_index(); d < HEAD_DIM; d += WAVE_SIZE) squares = fused(x[d], x[d], squares);
        inverse = 1.0f / __builtin_sqrtf(wave_sum(squares) / HEAD_DIM + EPSILON);
    }
    for (int32_t i = lane_index(); i < ROPE_DIM / 2; i += WAVE_SIZE) {
        const int32_t first = ROPE_INTERLEAVED ? 2 * i : i, second = ROPE_INTERLEAVED ? first + 1 : i + ROPE_DIM / 2;
        const float a = QK_NORM ? x[first] * inverse * weight[first] : x[first];
        const float b = QK_NORM ? x[second] * inverse * weight[second] : x[second];
        const float cosine = cosines[i], sine = cosines[ROPE_DIM / 2 + i];
        put(goal, first, a * cosine - b * sine);
        put(goal, second, a * sine + b * cosine);
    }
    for (int32_t d = ROPE_DIM + lane_index(); d < HEAD_DIM; d += WAVE_SIZE)
        put(goal, d, QK_NORM ? x[d] * inverse * weight[d] : x[d]);
}

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
        const size_t page = (size_t)block * NUM_KV_HEADS + (head - NUM_HEADS);
        const struct goal goal = { 0, (half_pointer)a2 + page * PAGE_HEAD + position % 16 * 8 };
        rotate_head(x, (const GLOBAL_MEMORY float *)a5, cosines, &goal);
    } else {
        const size_t page = (size_t)block * NUM_KV_HEADS + (head - NUM_HEADS - NUM_KV_HEADS);
        half_pointer value = (half_pointer)a3 + page * PAGE_HEAD + position % 16 * HEAD_DIM;
        for (int32_t d = lane_index(); d < HEAD_DIM; d += WAVE_SIZE) value[d] = (_Float16)x[d];
    }
}
