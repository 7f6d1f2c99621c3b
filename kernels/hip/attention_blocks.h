/* Keys and values of a chunk as they lie in the cache's blocks: readers for the functions of attention.h. */
#ifndef ROCMFORGE_ATTENTION_BLOCKS_H
#define ROCMFORGE_ATTENTION_BLOCKS_H
#include "attention.h"

struct block_keys {
    kv_pointer key;
    scale_pointer scales; /* of this position */
    INLINE_MEMBER read_eight eighth(int32_t d) const
    {
        return dequantized(*(const GLOBAL_MEMORY kv_eight *)(key + d * 128), KV_SCALE(scales, d / 4 * 16));
    }
};

struct block_values {
    kv_pointer values; /* of this head, in block 0 */
    int32_t block, next_block; /* of positions first and first + 16: LANES positions lie in one block, or in two */
    int32_t first, last;
    INLINE_MEMBER read_eight at(int32_t k, int32_t part) const
    {
        const size_t at = (size_t)(LANES > 16 && k >= 16 ? next_block : block) * NUM_KV_HEADS;
        const int32_t position = int_min(first + k, last) % 16, eighth = own_eighth(part);
        const kv_pointer value = values + at * VALUE_SIZE + VALUE_AT(eighth, position);
        return dequantized(
            *(const GLOBAL_MEMORY kv_eight *)value,
            KV_SCALE((scale_pointer)(values + VALUE_ELEMENTS), eighth / 4 * 16 + at * (VALUE_SIZE / 2) + position));
    }
};

/* Weighs and adds the chunk from `first` on. Lanes whose position is not in sight read one that is, and weigh 0.
 * `keys` and `values` are those of the kv head in block 0. */
INLINE void attend_chunk(kv_pointer keys, kv_pointer values, table_pointer table, query_pointer queries,
                         const int32_t *positions, const struct sight &sight, int32_t first, struct row *rows,
                         float (*weights)[WAVE_SIZE])
{
    const int32_t lane = lane_index(), own = inside(sight, first + lane), block = table[own / 16];
    const kv_pointer key_head = keys + (size_t)block * NUM_KV_HEADS * KEY_SIZE;
    const struct block_keys block_keys = { key_head + own % 16 * 8,
                                           (scale_pointer)(key_head + KEY_ELEMENTS) + own % 16 };
    struct block_values block_values;
    block_values.values = values;
    block_values.first = first + lane / LANES * LANES;
    block_values.last = sight.last;
    block_values.block = table[inside(sight, block_values.first) / 16];
    block_values.next_block = LANES > 16 ? table[inside(sight, block_values.first + 16) / 16] : 0;
    weigh_chunk(block_keys, queries, positions, sight, first, rows, weights);
    sync_wave();
    add_values(block_values, rows, weights);
    sync_wave();
}
#endif
