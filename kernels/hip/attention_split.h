/* Attention for few tokens, first half: each split of each token's context by a wave of its own.
 *
 * Constants as in attention.h, TOKEN_ROWS 1.
 * Arguments: qkv float32[T, QUERY_STRIDE], key blocks, value blocks, records float32[T, NUM_HEADS, MAX_SPLITS, RECORD].
 * Grid: x = kv heads * HEAD_PARTS, y tokens, z splits of the longest context.
 */
#if HEAD_ROWS > 4 /* few registers are left for loads in flight */
#define AHEAD_FOR NO_UNROLL_FOR
#define VALUES 2
#else
#define AHEAD_FOR UNROLL_2_FOR
#define VALUES 4
#endif
#include "attention_blocks.h"
#define THREADS WAVE_SIZE

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    alignas(16) __shared__ float weights[ROWS][WAVE_SIZE];
    const int32_t token = group_y(), start = group_z() * SPLIT, lane = lane_index();
    if (token >= STEP->num_tokens) return;
    const int32_t position = STEP->positions[token];
    struct sight sight;
    sight.head0 = group_x() * HEAD_ROWS;
    look_from(&sight, STEP, token);
    sight.low = first_in_sight(sight, position);
    sight.last = last_in_sight(sight, position);
    if (start > sight.last || (LIMITED && start + SPLIT <= sight.low)) return;
    sight.last = int_min(sight.last, start + SPLIT - 1); /* lanes past it repeat it, and weigh 0 */
    const int32_t kv_head = group_x() / HEAD_PARTS;
    table_pointer table = STEP->block_table + (size_t)STEP->rows[token] * STEP->blocks_per_row;
    query_pointer queries = (query_pointer)a0 + (size_t)token * QUERY_STRIDE + sight.head0 * HEAD_DIM;
    int32_t positions[ROWS];
    struct row rows[ROWS];
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        positions[r] = position;
        begin_row(rows + r);
    }
    const int32_t begin = LIMITED && sight.low > start ? start + (sight.low - start) / WAVE_SIZE * WAVE_SIZE : start;
    NO_UNROLL_FOR (int32_t first = begin; first <= sight.last; first += WAVE_SIZE)
        attend_chunk((kv_pointer)a1 + kv_head * KEY_SIZE, (kv_pointer)a2 + kv_head * VALUE_SIZE, table, queries,
                     positions, sight, first, rows, weights);
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        end_split(rows + r);
        const size_t record = ((size_t)token * NUM_HEADS + sight.head0 + r) * MAX_SPLITS + group_z();
        GLOBAL_MEMORY float *out = (GLOBAL_MEMORY float *)a3 + record * RECORD;
        UNROLL_FOR (int p = 0; p < PARTS; p++)
            if (lane < LANES && lane + p * LANES < EIGHTHS)
                UNROLL_FOR (int i = 0; i < 8; i += 4) {
                    const float *sums = rows[r].sums + 8 * p + i;
                    *(GLOBAL_MEMORY f32x4 *)(out + 8 * (lane + p * LANES) + i) =
                        f32x4{ sums[0], sums[1], sums[2], sums[3] };
                }
        if (lane == 0) *(GLOBAL_MEMORY f32x2 *)(out + VALUE_WIDTH) = f32x2{ rows[r].largest, rows[r].total };
    }
}
