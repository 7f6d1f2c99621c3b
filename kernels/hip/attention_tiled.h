/* Attention for many tokens: 4 waves of TOKEN_ROWS tokens each, which share the keys and values of a chunk in LDS.
 *
 * Constants as in attention.h. Arguments: qkv float32[T, QUERY_STRIDE], key blocks, value blocks, out, where SINKS sinks
 * float32[NUM_HEADS].
 * Grid: x = kv heads * HEAD_PARTS, y = tokens / (4 * TOKEN_ROWS).
 * Neighbouring tokens of one sequence make a segment; the segments of a tile come one after the other. Chunks of large
 * heads do not fit into LDS: each wave reads them from the cache.
 */
#define AHEAD_FOR NO_UNROLL_FOR
#define VALUES 2
#include "attention_blocks.h"
#define THREADS (4 * WAVE_SIZE)
#define TILE_TOKENS (4 * TOKEN_ROWS)
#define CHUNK_BLOCKS (WAVE_SIZE / 16)
#define LARGER_SIZE (KEY_SIZE > VALUE_SIZE ? KEY_SIZE : VALUE_SIZE)
#define IN_LDS (CHUNK_BLOCKS * LARGER_SIZE * sizeof(kv_element) + 16 * ROWS * WAVE_SIZE <= 65536)

struct lds_keys {
    const kv_element *key;
    const _Float16 *scales; /* of this position */
    INLINE_MEMBER read_eight eighth(int32_t d) const
    {
        return dequantized(*(const kv_eight *)(key + d * 128), KV_SCALE(scales, d / 4 * 16));
    }
};

struct lds_values {
    const kv_element *values; /* position 0 of the chunk */
    int32_t first, last; /* within the chunk */
    INLINE_MEMBER read_eight at(int32_t k, int32_t part) const
    {
        const int32_t position = int_min(first + k, last), block = KV_Q8_0 || VALUES_IN_KEYS ? position / 16 : 0;
        const int32_t eighth = own_eighth(part);
        const kv_element *value = values + block * VALUE_SIZE + VALUE_AT(eighth, position - 16 * block);
        return dequantized(*(const kv_eight *)value,
                           KV_SCALE((const _Float16 *)(values + VALUE_ELEMENTS),
                                    eighth / 4 * 16 + block * (VALUE_SIZE / 2) + position % 16));
    }
};

/* One head of the blocks that hold the positions from `first` on, each of `size` elements; those that are not in sight
 * are as the nearest that is. */
INLINE void load_blocks(kv_pointer blocks, const int32_t size, table_pointer table, int32_t first,
                        const struct sight &sight, kv_element *out)
{
    const int32_t pieces = size * sizeof(kv_element) / 16;
    for (int32_t i = thread_index(); i < CHUNK_BLOCKS * pieces; i += THREADS) {
        const int32_t block = table[inside(sight, first + i / pieces * 16) / 16];
        const size_t at = (size_t)block * NUM_KV_HEADS * size;
        ((i32x4 *)out)[i] = ((const GLOBAL_MEMORY i32x4 *)(blocks + at))[i % pieces];
    }
}

struct tile {
    kv_pointer keys, values; /* of this kv head, in block 0 */
    query_pointer queries; /* of the first row; of tokens past the last too, which go nowhere */
    int32_t positions[ROWS]; /* -1: not of this segment */
    struct row rows[ROWS];
};

/* One chunk, by way of LDS. */
INLINE void attend_shared(struct tile *tile, table_pointer table, const struct sight &sight, int32_t first,
                          kv_element *blocks, float (*weights)[WAVE_SIZE])
{
    const int32_t lane = lane_index();
    load_blocks(tile->keys, KEY_SIZE, table, first, sight, blocks);
    __syncthreads();
    const kv_element *head = blocks + lane / 16 * KEY_SIZE;
    const struct lds_keys keys = { head + lane % 16 * 8, (const _Float16 *)(head + KEY_ELEMENTS) + lane % 16 };
    weigh_chunk(keys, tile->queries, tile->positions, sight, first, tile->rows, weights);
    __syncthreads();
    if (!VALUES_IN_KEYS) {
        load_blocks(tile->values, VALUE_SIZE, table, first, sight, blocks);
        __syncthreads();
    }
    const struct lds_values values = { blocks, lane / LANES * LANES, sight.last - first };
    add_values(values, tile->rows, weights);
    __syncthreads();
}

/* One split of a segment. */
INLINE void attend_split(struct tile *tile, table_pointer table, int32_t start, const struct sight &sight,
                         kv_element *blocks, float (*weights)[WAVE_SIZE])
{
    const int32_t end = int_min(sight.last, start + SPLIT - 1);
    const int32_t begin = LIMITED && sight.low > start ? start + (sight.low - start) / WAVE_SIZE * WAVE_SIZE : start;
    NO_UNROLL_FOR (int32_t first = begin; first <= end; first += WAVE_SIZE) {
        if (IN_LDS)
            attend_shared(tile, table, sight, first, blocks, weights);
        else
            attend_chunk(tile->keys, tile->values, table, tile->queries, tile->positions, sight, first, tile->rows,
                         weights);
    }
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    alignas(16) __shared__ kv_element blocks[IN_LDS ? CHUNK_BLOCKS * LARGER_SIZE : 16];
    alignas(16) __shared__ float weights[4][ROWS][WAVE_SIZE];
    const int32_t first = group_y() * TILE_TOKENS, end = int_min(STEP->num_tokens, first + TILE_TOKENS);
    if (first >= end) return;
    struct sight sight;
    sight.head0 = group_x() * HEAD_ROWS;
    const int32_t kv_head = group_x() / HEAD_PARTS, token0 = first + wave_index() * TOKEN_ROWS;
    struct tile tile;
    struct row all[ROWS];
    tile.keys = (kv_pointer)a1 + kv_head * KEY_SIZE;
    tile.values = (kv_pointer)a2 + kv_head * VALUE_SIZE;
    tile.queries = (query_pointer)a0 + (size_t)token0 * QUERY_STRIDE + sight.head0 * HEAD_DIM;
    UNROLL_FOR (int r = 0; r < ROWS; r++) begin_row(all + r);
    int32_t begin = first;
    while (begin < end) {
        const int32_t sequence = STEP->rows[begin];
        int32_t next = begin, last = 0, least = STEP->positions[begin];
        for (; next < end && STEP->rows[next] == sequence; next++) {
            if (STEP->positions[next] > last) last = STEP->positions[next];
            if (LIMITED) least = int_min(least, STEP->positions[next]);
        }
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            const int32_t token = token0 + r / HEAD_ROWS;
            tile.positions[r] = token >= begin && token < next ? STEP->positions[token] : -1;
        }
        look_from(&sight, STEP, begin);
        sight.low = first_in_sight(sight, least);
        sight.last = last_in_sight(sight, last);
        table_pointer table = STEP->block_table + (size_t)sequence * STEP->blocks_per_row;
        NO_UNROLL_FOR (int32_t start = sight.low / SPLIT * SPLIT; start <= sight.last; start += SPLIT) {
            UNROLL_FOR (int r = 0; r < ROWS; r++) begin_row(tile.rows + r);
            attend_split(&tile, table, start, sight, blocks, weights[wave_index()]);
            UNROLL_FOR (int r = 0; r < ROWS; r++) {
                end_split(tile.rows + r);
                merge_split(all + r, tile.rows + r);
            }
        }
        begin = next;
    }
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        const int32_t token = token0 + r / HEAD_ROWS, head = sight.head0 + r % HEAD_ROWS;
        add_sink(all + r, a4, head);
        if (token < end) write_head(all + r, a3, token, head, lane_index());
    }
}
