/* Attention for many tokens: 4 waves of TOKEN_ROWS tokens each, which share the keys and values of a chunk in LDS.
 *
 * Constants as in attention.h. Arguments: qkv float32[T, QKV_STRIDE], key blocks, value blocks, out.
 * Grid: x = kv heads * HEAD_PARTS, y = tokens / (4 * TOKEN_ROWS).
 * Neighbouring tokens of one sequence make a segment; the segments of a tile come one after the other.
 */
#define AHEAD_FOR NO_UNROLL_FOR
#define VALUES 2
#include "attention.h"
#define THREADS (4 * WAVE_SIZE)
#define TILE_TOKENS (4 * TOKEN_ROWS)
#define CHUNK_BLOCKS (WAVE_SIZE / 16)

struct lds_keys {
    const kv_element *key;
    const _Float16 *scales; /* of this position */
    INLINE_MEMBER read_eight eighth(int32_t d) const
    {
        return dequantized(*(const kv_eight *)(key + d * 128), KV_SCALE(scales, d / 4 * 16));
    }
};

struct lds_values {
    const kv_element *values; /* of this eighth, position 0 of the chunk */
    const _Float16 *scales; /* of these */
    int32_t first, last; /* within the chunk */
    INLINE_MEMBER read_eight at(int32_t k) const
    {
        const int32_t position = int_min(first + k, last), block = KV_Q8_0 ? position / 16 : 0;
        const kv_element *value = values + position * HEAD_DIM + block * (KV_HEAD_SIZE - KV_HEAD_ELEMENTS);
        return dequantized(*(const kv_eight *)value, KV_SCALE(scales, block * (KV_HEAD_SIZE / 2) + position % 16));
    }
};

/* One head of the blocks that hold the positions from `first` on; those past `last` repeat its block. */
INLINE void load_blocks(kv_pointer blocks, table_pointer table, int32_t first, int32_t last, kv_element *out)
{
    const int32_t pieces = KV_HEAD_SIZE * sizeof(kv_element) / 16;
    for (int32_t i = thread_index(); i < CHUNK_BLOCKS * pieces; i += THREADS) {
        const int32_t block = table[int_min(first / 16 + i / pieces, last / 16)];
        const size_t at = (size_t)block * NUM_KV_HEADS * KV_HEAD_SIZE;
        ((i32x4 *)out)[i] = ((const GLOBAL_MEMORY i32x4 *)(blocks + at))[i % pieces];
    }
}

struct tile {
    kv_pointer keys, values; /* of this kv head, in block 0 */
    query_pointer queries; /* of the first row; of tokens past the last too, which go nowhere */
    int32_t positions[ROWS]; /* -1: not of this segment */
    struct row rows[ROWS];
};

/* One split of a segment whose greatest position is `last`. */
INLINE void attend_split(struct tile *tile, table_pointer table, int32_t start, int32_t last, kv_element *blocks,
                         float (*weights)[WAVE_SIZE])
{
    const int32_t lane = lane_index(), end = int_min(last, start + SPLIT - 1);
    NO_UNROLL_FOR (int32_t first = start; first <= end; first += WAVE_SIZE) {
        load_blocks(tile->keys, table, first, last, blocks);
        __syncthreads();
        const kv_element *head = blocks + lane / 16 * KV_HEAD_SIZE;
        const struct lds_keys keys = { head + lane % 16 * 8, (const _Float16 *)(head + KV_HEAD_ELEMENTS) + lane % 16 };
        weigh_chunk(keys, tile->queries, tile->positions, first, tile->rows, weights);
        __syncthreads();
        load_blocks(tile->values, table, first, last, blocks);
        __syncthreads();
        const int32_t eighth = int_min(lane % LANES, EIGHTS - 1);
        const _Float16 *scales = (const _Float16 *)(blocks + KV_HEAD_ELEMENTS) + eighth / 4 * 16;
        const struct lds_values values = { blocks + 8 * eighth, scales, lane / LANES * LANES, last - first };
        add_values(values, tile->rows, weights);
        __syncthreads();
    }
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    alignas(16) __shared__ kv_element blocks[CHUNK_BLOCKS * KV_HEAD_SIZE];
    alignas(16) __shared__ float weights[4][ROWS][WAVE_SIZE];
    const int32_t first = group_y() * TILE_TOKENS, end = int_min(STEP->num_tokens, first + TILE_TOKENS);
    if (first >= end) return;
    const int32_t kv_head = group_x() / HEAD_PARTS, head0 = group_x() * HEAD_ROWS,
                  token0 = first + wave_index() * TOKEN_ROWS;
    struct tile tile;
    struct row all[ROWS];
    tile.keys = (kv_pointer)a1 + kv_head * KV_HEAD_SIZE;
    tile.values = (kv_pointer)a2 + kv_head * KV_HEAD_SIZE;
    tile.queries = (query_pointer)a0 + (size_t)token0 * QKV_STRIDE + head0 * HEAD_DIM;
    UNROLL_FOR (int r = 0; r < ROWS; r++) begin_row(all + r);
    int32_t begin = first;
    while (begin < end) {
        const int32_t sequence = STEP->rows[begin];
        int32_t next = begin, last = 0;
        for (; next < end && STEP->rows[next] == sequence; next++)
            if (STEP->positions[next] > last) last = STEP->positions[next];
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            const int32_t token = token0 + r / HEAD_ROWS;
            tile.positions[r] = token >= begin && token < next ? STEP->positions[token] : -1;
        }
        table_pointer table = STEP->block_table + (size_t)sequence * STEP->blocks_per_row;
        NO_UNROLL_FOR (int32_t start = 0; start <= last; start += SPLIT) {
            UNROLL_FOR (int r = 0; r < ROWS; r++) begin_row(tile.rows + r);
            attend_split(&tile, table, start, last, blocks, weights[wave_index()]);
            UNROLL_FOR (int r = 0; r < ROWS; r++) {
                end_split(tile.rows + r);
                merge_split(all + r, tile.rows + r);
            }
        }
        begin = next;
    }
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        const int32_t token = token0 + r / HEAD_ROWS;
        if (token < end && lane_index() < EIGHTS) write_eighth(all + r, a3, token, head0 + r % HEAD_ROWS, lane_index());
    }
}
