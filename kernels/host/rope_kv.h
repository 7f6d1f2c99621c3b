/* Rotates queries and keys, writes keys and values into the paged cache; queries stay in place.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, ROPE_DIM, INTERLEAVED (pairs (2i, 2i+1); else (i, i + ROPE_DIM/2)),
 * QK_NORM (RMS norm of each head before the rotation), EPSILON, KV_Q8_0.
 * Arguments: qkv float32[T, (NUM_HEADS + 2 NUM_KV_HEADS) * HEAD_DIM], table float32[max_seq_len, ROPE_DIM] (cosines,
 * then sines), key blocks, value blocks, query norm float32[HEAD_DIM], key norm float32[HEAD_DIM].
 * KV blocks: [block, kv head], each as in kv_blocks.h. A work item is one token.
 */
#include "kv_blocks.h"

static int32_t rope_kv_items(const struct step *step) { return step->num_tokens; }

static void normalize_head(float *x, const float *weight)
{
    f32x16 squares = splat(0);
    for (int32_t c = 0; c < HEAD_DIM; c += 16) squares = vector_fma(load_f32(x + c), load_f32(x + c), squares);
    const float inverse = 1.0f / __builtin_sqrtf(horizontal_sum(squares) / HEAD_DIM + EPSILON);
    for (int32_t c = 0; c < HEAD_DIM; c++) x[c] = x[c] * inverse * weight[c];
}

static void rotate_head(float *x, const float *cosines)
{
    const float *sines = cosines + ROPE_DIM / 2;
    for (int32_t i = 0; i < ROPE_DIM / 2; i++) {
        float *first = INTERLEAVED ? x + 2 * i : x + i, *second = INTERLEAVED ? first + 1 : first + ROPE_DIM / 2;
        const float a = *first, b = *second;
        *first = a * cosines[i] - b * sines[i];
        *second = a * sines[i] + b * cosines[i];
    }
}

static void rope_kv_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t t = begin; t < end; t++) {
        float *query = (float *)arguments[0] + (size_t)t * (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM;
        float *key = query + NUM_HEADS * HEAD_DIM, *value = key + NUM_KV_HEADS * HEAD_DIM;
        const int32_t position = step->positions[t];
        const float *cosines = (const float *)arguments[1] + (size_t)position * ROPE_DIM;
        const int32_t block = step->block_table[(size_t)step->rows[t] * step->blocks_per_row + position / 16];
        uint8_t *keys = (uint8_t *)arguments[2] + block * KV_BLOCK_BYTES;
        uint8_t *values = (uint8_t *)arguments[3] + block * KV_BLOCK_BYTES;
        for (int32_t h = 0; h < NUM_HEADS; h++) {
            if (QK_NORM) normalize_head(query + h * HEAD_DIM, (const float *)arguments[4]);
            rotate_head(query + h * HEAD_DIM, cosines);
        }
        for (int32_t h = 0; h < NUM_KV_HEADS; h++) {
            if (QK_NORM) normalize_head(key + h * HEAD_DIM, (const float *)arguments[5]);
            rotate_head(key + h * HEAD_DIM, cosines);
            store_key(keys + (size_t)h * KV_HEAD_BYTES, position % 16, key + h * HEAD_DIM);
            store_value(values + (size_t)h * KV_HEAD_BYTES, position % 16, value + h * HEAD_DIM);
        }
    }
}
EXPORT const struct kernel SYMBOL = { rope_kv_items, rope_kv_run };
