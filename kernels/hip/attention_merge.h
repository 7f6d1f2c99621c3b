/* Attention for few tokens, second half: merges the splits of each head in order.
 *
 * Constants as in attention.h. Arguments: records of attention_split.h, out [T, NUM_HEADS * VALUE_DIM],
 * where SINKS sinks float32[NUM_HEADS].
 * Grid: x = NUM_HEADS * LANES / THREADS, y tokens.
 */
#define AHEAD_FOR NO_UNROLL_FOR
#define VALUES 1
#include "attention.h"
#define THREADS 64

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), item = group_x() * THREADS + thread_index();
    const int32_t head = item / LANES, lane = item % LANES;
    if (token >= STEP->num_tokens) return;
    struct sight sight;
    look_from(&sight, STEP, token);
    const int32_t position = STEP->positions[token];
    if (head >= NUM_HEADS || lane >= EIGHTHS) return;
    const int32_t skipped = first_in_sight(sight, position) / SPLIT;
    const int32_t splits = last_in_sight(sight, position) / SPLIT + 1;
    const GLOBAL_MEMORY float *record =
        (const GLOBAL_MEMORY float *)a0 + (((size_t)token * NUM_HEADS + head) * MAX_SPLITS + skipped) * RECORD;
    struct row all;
    begin_row(&all);
    for (int32_t s = skipped; s < splits; s++, record += RECORD) {
        struct row split;
        UNROLL_FOR (int p = 0; p < PARTS; p++)
            UNROLL_FOR (int i = 0; i < 8; i += 4) {
                const int32_t eighth = int_min(lane + p * LANES, EIGHTHS - 1);
                const f32x4 four = *(const GLOBAL_MEMORY f32x4 *)(record + 8 * eighth + i);
                UNROLL_FOR (int n = 0; n < 4; n++) split.sums[8 * p + i + n] = four[n];
            }
        const f32x2 scales = *(const GLOBAL_MEMORY f32x2 *)(record + VALUE_WIDTH);
        split.largest = scales[0];
        split.total = scales[1];
        merge_split(&all, &split);
    }
    add_sink(&all, a2, head);
    write_head(&all, a1, token, head, lane);
}
