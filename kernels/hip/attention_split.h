/* Attention for few tokens, first half: each split of each token's context by a wave of its own.
 *
 * Constants as in attention.h, TOKEN_ROWS 1.
 * Arguments: qkv float32[T, QKV_STRIDE], key blocks, value blocks, records float32[T, NUM_HEADS, MAX_SPLITS, RECORD].
 * Grid: x = kv heads * HEAD_PARTS, y tokens, z splits of the longest context.
 */
#if HEAD_ROWS > 4 /* few registers are left for loads in flight */
#define AHEAD_FOR NO_UNROLL_FOR
#define VALUES 2
#else
#define AHEAD_FOR UNROLL_2_FOR
#define VALUES 4
#endif
#include "attention.h"
#define THREADS WAVE_SIZE

struct block_keys {
    kv_pointer key;
    scale_pointer scales; /* of this position */
    INLINE_MEMBER read_eight eighth(int32_t d) const
    {
        return dequantized(*(const GLOBAL_MEMORY kv_eight *)(key + d * 128), KV_SCALE(scales, d / 4 * 16));
    }
};

struct block_values {
    kv_pointer values; /* of this head and eighth, in block 0 */
    scale_pointer scales; /* of these */
    int32_t block, next_block; /* of positions first and first + 16: LANES positions lie in one block, or in two */
    int32_t first, last;
    INLINE_MEMBER read_eight at(int32_t k) const
    {
        const size_t at = (size_t)(LANES > 16 && k >= 16 ? next_block : block) * NUM_KV_HEADS;
        const int32_t position = int_min(first + k, last) % 16;
        return dequantized(*(const GLOBAL_MEMORY kv_eight *)(values + at * KV_HEAD_SIZE + position * HEAD_DIM),
                           KV_SCALE(scales, at * (KV_HEAD_SIZE / 2) + position));
    }
};

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    alignas(16) __shared__ float weights[ROWS][WAVE_SIZE];
    const int32_t token = group_y(), start = group_z() * SPLIT, lane = lane_index();
    if (token >= STEP->num_tokens) return;
    const int32_t position = STEP->positions[token];
    if (start > position) return;
    const int32_t last = int_min(position, start + SPLIT - 1); /* lanes past it repeat it, and weigh 0 */
    const int32_t kv_head = group_x() / HEAD_PARTS, head0 = group_x() * HEAD_ROWS;
    const int32_t eighth = int_min(lane % LANES, EIGHTS - 1);
    table_pointer table = STEP->block_table + (size_t)STEP->rows[token] * STEP->blocks_per_row;
    query_pointer queries = (query_pointer)a0 + (size_t)token * QKV_STRIDE + head0 * HEAD_DIM;
    int32_t positions[ROWS];
    struct row rows[ROWS];
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        positions[r] = position;
        begin_row(rows + r);
    }
    NO_UNROLL_FOR (int32_t first = start; first <= last; first += WAVE_SIZE) {
        const int32_t own = int_min(first + lane, last), block = table[own / 16];
        const kv_pointer key_head = (kv_pointer)a1 + ((size_t)block * NUM_KV_HEADS + kv_head) * KV_HEAD_SIZE;
        const struct block_keys keys = { key_head + own % 16 * 8,
                                         (scale_pointer)(key_head + KV_HEAD_ELEMENTS) + own % 16 };
        struct block_values values;
        values.values = (kv_pointer)a2 + kv_head * KV_HEAD_SIZE + 8 * eighth;
        values.scales = (scale_pointer)((kv_pointer)a2 + kv_head * KV_HEAD_SIZE + KV_HEAD_ELEMENTS) + eighth / 4 * 16;
        values.first = first + lane / LANES * LANES;
        values.last = last;
        values.block = table[int_min(values.first, last) / 16];
        values.next_block = LANES > 16 ? table[int_min(values.first + 16, last) / 16] : 0;
        weigh_chunk(keys, queries, positions, first, rows, weights);
        sync_wave();
        add_values(values, rows, weights);
        sync_wave();
    }
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        end_split(rows + r);
        const size_t record = ((size_t)token * NUM_HEADS + head0 + r) * MAX_SPLITS + group_z();
        GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a3 + record * RECORD;
        if (lane < EIGHTS)
            UNROLL_FOR (int i = 0; i < 8; i += 4)
                *(GLOBAL_MEMORY f32x4 *)(out + 8 * lane + i) =
                    f32x4{ rows[r].sums[i], rows[r].sums[i + 1], rows[r].sums[i + 2], rows[r].sums[i + 3] };
        if (lane == 0) *(GLOBAL_MEMORY f32x2 *)(out + HEAD_DIM) = f32x2{ rows[r].largest, rows[r].total };
    }
}
