/* Causal attention over paged keys and values, grouped queries: what its three kernels share.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, SCALE, OUT_Q8 (needs HEAD_DIM a multiple of 32), KV_Q8_0, SPLIT
 * (positions, a multiple of 64), MAX_SPLITS, HEAD_ROWS (query heads of one kv head that a wave takes), TOKEN_ROWS
 * (tokens of a wave); by the kernel itself AHEAD_FOR and VALUES, values loaded at once.
 * KV blocks: [block, kv head], each as in kv_blocks.h.
 *
 * A row is one head of one token. Its context is cut into splits at multiples of SPLIT, a split into chunks of
 * WAVE_SIZE positions. Within a split a running maximum goes from chunk to chunk; the splits' results are merged in
 * order. Few tokens: a wave for each split, then a kernel that merges; many: one wave goes through all splits. Both
 * do the same arithmetic for a row, to the bit, whatever rows stand beside it: positions past its own weigh exactly 0.
 *
 * Scores: a lane is a position. Sums: LANES neighbouring lanes hold a value's HEAD_DIM elements, 8 each, and take LANES
 * of the chunk's positions; at the end of a split the WAVE_SIZE / LANES partial sums are added.
 */
#include "kv_blocks.h"

#define GROUP (NUM_HEADS / NUM_KV_HEADS)
#define HEAD_PARTS (GROUP / HEAD_ROWS)
#define ROWS (HEAD_ROWS * TOKEN_ROWS)
#define EIGHTS (HEAD_DIM / 8)
#define LANES (EIGHTS <= 4 ? 4 : EIGHTS <= 8 ? 8 : EIGHTS <= 16 ? 16 : 32)
#define QKV_STRIDE ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM)
#define RECORD (HEAD_DIM + 4) /* float32 of a split's result: sums, largest, total, two unused */
#define LOWEST -3.0e38f
#define AHEAD (ROWS < 4 ? ROWS : 4) /* rows whose queries are loaded before they are needed */
static_assert(HEAD_DIM % 8 == 0 && HEAD_DIM <= 256, "a lane holds 8 elements, a wave at least one position");

typedef const CONSTANT_MEMORY float *query_pointer;
typedef const CONSTANT_MEMORY int32_t *table_pointer;

struct row {
    float largest, total, sums[8];
};

INLINE void begin_row(struct row *row)
{
    row->largest = LOWEST;
    row->total = 0;
    UNROLL_FOR (int i = 0; i < 8; i++) row->sums[i] = 0;
}

/* Scores of a chunk's positions from `first` on, as weights to LDS; what was summed before is rescaled.
 * `keys.eighth(d)` is elements 8d .. 8d+7 of the key at this lane's position. */
template <class Keys>
INLINE void weigh_chunk(const Keys &keys, query_pointer queries, const int32_t *positions, int32_t first,
                        struct row *rows, float (*weights)[WAVE_SIZE])
{
    float scores[ROWS];
    UNROLL_FOR (int r = 0; r < ROWS; r++) scores[r] = 0;
    AHEAD_FOR (int32_t d = 0; d < EIGHTS; d++) {
        const read_eight key = keys.eighth(d);
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            READ_AFTER(queries, scores[(r + ROWS - AHEAD) % ROWS]);
            query_pointer query = queries + r / HEAD_ROWS * QKV_STRIDE + r % HEAD_ROWS * HEAD_DIM + 8 * d;
            UNROLL_FOR (int i = 0; i < 8; i++) scores[r] = float_fma(query[i], (float)key[i], scores[r]);
        }
    }
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        const bool visible = first + lane_index() <= positions[r];
        const float score = visible ? scores[r] * SCALE : LOWEST;
        const float largest = float_max(rows[r].largest, wave_max(score));
        const float factor = float_exp(rows[r].largest - largest);
        const float weight = visible ? float_exp(score - largest) : 0.0f;
        rows[r].total = rows[r].total * factor + weight;
        rows[r].largest = largest;
        UNROLL_FOR (int i = 0; i < 8; i++) rows[r].sums[i] *= factor;
        weights[r][lane_index()] = weight;
    }
}

/* Adds the chunk's values. `values.at(k)` is this lane's eighth of the value at position k of its LANES positions. */
template <class Values>
INLINE void add_values(const Values &values, struct row *rows, const float (*weights)[WAVE_SIZE])
{
    const int32_t first = lane_index() / LANES * LANES;
    AHEAD_FOR (int32_t k = 0; k < LANES; k += VALUES) {
        read_eight value[VALUES];
        UNROLL_FOR (int n = 0; n < VALUES; n++) value[n] = values.at(k + n);
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            const float *weight = weights[r] + first + k;
            UNROLL_FOR (int n = 0; n < VALUES; n++)
                UNROLL_FOR (int i = 0; i < 8; i++)
                    rows[r].sums[i] = float_fma(weight[n], (float)value[n][i], rows[r].sums[i]);
        }
    }
}

/* All lanes get the split's total, and the sums of their elements. */
INLINE void end_split(struct row *row)
{
    row->total = wave_sum(row->total);
    UNROLL_FOR (int i = 0; i < 8; i++) {
        if (LANES <= 4) row->sums[i] += shuffle_xor<4>(row->sums[i]);
        if (LANES <= 8) row->sums[i] += shuffle_xor<8>(row->sums[i]);
        if (LANES <= 16) row->sums[i] += shuffle_xor<16>(row->sums[i]);
        if (WAVE_SIZE == 64) row->sums[i] += shuffle_xor<32>(row->sums[i]);
    }
}

INLINE void merge_split(struct row *all, const struct row *split)
{
    const float largest = float_max(all->largest, split->largest);
    const float before = float_exp(all->largest - largest), now = float_exp(split->largest - largest);
    all->largest = largest;
    all->total = all->total * before + split->total * now;
    UNROLL_FOR (int i = 0; i < 8; i++) all->sums[i] = all->sums[i] * before + split->sums[i] * now;
}

/* Elements 8 * eighth .. + 7 of the output of a head. */
INLINE void write_eighth(const struct row *row, void *out, int32_t token, int32_t head, int32_t eighth)
{
    const size_t first = ((size_t)token * NUM_HEADS + head) * HEAD_DIM + 8 * eighth;
    const float inverse = 1.0f / row->total;
    float values[8];
    UNROLL_FOR (int i = 0; i < 8; i++) values[i] = row->sums[i] * inverse + 0.0f; /* + 0: no zero has a sign */
#if OUT_Q8
    quantize_eight(values, (GLOBAL_MEMORY struct q8_block *)out + first / 32, first % 32);
#else
    UNROLL_FOR (int i = 0; i < 8; i += 4)
        *(GLOBAL_MEMORY f32x4 *)((GLOBAL_MEMORY float *)out + first + i) =
            f32x4{ values[i], values[i + 1], values[i + 2], values[i + 3] };
#endif
}
