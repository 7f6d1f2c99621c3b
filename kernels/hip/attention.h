/* Attention over paged keys and values, grouped queries: what its three kernels share.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, SCALE, OUT_Q8 (needs VALUE_DIM a multiple of 32), KV_Q8_0, SPLIT
 * (positions, a multiple of 64), MAX_SPLITS, HEAD_ROWS (query heads of one kv head that a wave takes), TOKEN_ROWS
 * (tokens of a wave); by the kernel itself AHEAD_FOR and VALUES, values loaded at once. Those of kv_blocks.h and
 * attention_options.h.
 * KV blocks: [block, kv head], each as in kv_blocks.h.
 *
 * A row is one head of one token. Its context is cut into splits at multiples of SPLIT, a split into chunks of
 * WAVE_SIZE positions. Within a split a running maximum goes from chunk to chunk; the splits' results are merged in
 * order. Few tokens: a wave for each split, then a kernel that merges; many: one wave goes through all splits. Both
 * do the same arithmetic for a row, to the bit, whatever rows stand beside it: positions that it does not see weigh
 * exactly 0, and chunks and splits of which it sees none leave no trace.
 *
 * Scores: a lane is a position. Sums: LANES neighbouring lanes hold a value's elements, 8 in each of its PARTS, and
 * take LANES of the chunk's positions; at the end of a split the WAVE_SIZE / LANES partial sums are added.
 */
#include "kv_blocks.h"
#include "attention_options.h"

#define GROUP (NUM_HEADS / NUM_KV_HEADS)
#define HEAD_PARTS (GROUP / HEAD_ROWS)
#define ROWS (HEAD_ROWS * TOKEN_ROWS)
#define KEY_EIGHTHS (KEY_WIDTH / 8)
#define EIGHTHS (VALUE_WIDTH / 8)
#define PARTS ((EIGHTHS + 31) / 32)
#define PART_EIGHTHS ((EIGHTHS + PARTS - 1) / PARTS)
#define LANES (PART_EIGHTHS <= 4 ? 4 : PART_EIGHTHS <= 8 ? 8 : PART_EIGHTHS <= 16 ? 16 : 32)
#define RECORD (VALUE_WIDTH + 4) /* float32 of a split's result: sums, largest, total, two unused */
#define LOWEST -3.0e38f
#define AHEAD (ROWS < 4 ? ROWS : 4) /* rows whose queries are loaded before they are needed */

typedef const CONSTANT_MEMORY float *query_pointer;
typedef const CONSTANT_MEMORY int32_t *table_pointer;

/* Positions of the sequence that a token is of, which are all in the step; a wave's work. */
INLINE int32_t sequence_length(step_pointer step, int32_t token)
{
    int32_t last = step->positions[token];
    for (int32_t t = token + lane_index(); t < step->num_tokens; t += WAVE_SIZE)
        if (step->rows[t] == step->rows[token]) last = int_max(last, step->positions[t]);
    return (int32_t)wave_max((float)last) + 1; /* positions are less than 2^24 */
}

/* What rows of a step see: positions `low` to `last` at most. */
struct sight {
    int32_t head0, length, low, last; /* `length` of the sequence, where it is seen both ways */
#if SPANS
    table_pointer begins, ends; /* of what positions see */
#endif
#if SEES_AHEAD
    table_pointer ends; /* of what tokens see; null: each is the last itself */
    int32_t shift; /* from a position to its token */
#endif
};

INLINE int32_t first_in_sight(const struct sight &sight, int32_t position)
{
#if SPANS
    return sight.begins[position];
#else
    return first_seen(position);
#endif
}

INLINE int32_t last_in_sight(const struct sight &sight, int32_t position)
{
#if SPANS
    return sight.ends[position] - 1;
#elif SEES_AHEAD
    return sight.ends ? sight.ends[position + sight.shift] - 1 : position;
#else
    return last_seen(position, sight.length);
#endif
}

INLINE void look_from(struct sight *sight, step_pointer step, int32_t token)
{
    sight->length = BOTH_WAYS ? sequence_length(step, token) : 0;
#if SPANS
    sight->begins = step->rope_positions;
    sight->ends = step->rope_positions + 3 * (size_t)step->num_tokens;
#endif
#if SEES_AHEAD
    sight->ends = step->rope_positions ? step->rope_positions + 3 * (size_t)step->num_tokens : 0;
    sight->shift = token - step->positions[token];
#endif
}

INLINE bool sees(const struct sight &sight, int32_t position, int32_t other)
{
    if ((BOTH_WAYS || SEES_AHEAD) && position < 0) return false; /* no token */
    return other <= last_in_sight(sight, position) && (!(LIMITED) || other >= first_in_sight(sight, position));
}

struct row {
    float largest, total, sums[8 * PARTS];
};

/* A position, or the nearest in sight. */
INLINE int32_t inside(const struct sight &sight, int32_t position)
{
    const int32_t near = int_min(position, sight.last);
    return LIMITED ? int_max(near, sight.low) : near;
}

INLINE void begin_row(struct row *row)
{
    row->largest = LOWEST;
    row->total = 0;
    UNROLL_FOR (int i = 0; i < 8 * PARTS; i++) row->sums[i] = 0;
}

INLINE float query_at(query_pointer query, int32_t d) { return HEAD_DIM % 8 == 0 || d < HEAD_DIM ? query[d] : 0.0f; }

/* A score of which the products are known. */
INLINE float score_of(float sum, int32_t distance, int32_t head)
{
    float score = sum * SCALE;
    if (SOFTCAP > 0) score = SOFTCAP - 2 * SOFTCAP / (float_exp(score * (2 / SOFTCAP)) + 1);
    if (MAX_BIAS > 0) score -= float_exp(slope_exponent(head)) * float_abs((float)distance);
    return score;
}

/* Scores of a chunk's positions from `first` on, as weights to LDS; what was summed before is rescaled.
 * `keys.eighth(d)` is elements 8d .. 8d+7 of the key at this lane's position. */
template <class Keys>
INLINE void weigh_chunk(const Keys &keys, query_pointer queries, const int32_t *positions, const struct sight &sight,
                        int32_t first, struct row *rows, float (*weights)[WAVE_SIZE])
{
    float scores[ROWS];
    UNROLL_FOR (int r = 0; r < ROWS; r++) scores[r] = 0;
    AHEAD_FOR (int32_t d = 0; d < KEY_EIGHTHS; d++) {
        const read_eight key = keys.eighth(d);
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            READ_AFTER(queries, scores[(r + ROWS - AHEAD) % ROWS]);
            query_pointer query = queries + r / HEAD_ROWS * QUERY_STRIDE + r % HEAD_ROWS * HEAD_DIM;
            UNROLL_FOR (int i = 0; i < 8; i++)
                scores[r] = float_fma(query_at(query, 8 * d + i), (float)key[i], scores[r]);
        }
    }
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        const int32_t own = first + lane_index();
        const bool visible = sees(sight, positions[r], own);
        const float score = visible ? score_of(scores[r], own - positions[r], sight.head0 + r % HEAD_ROWS) : LOWEST;
        const float largest = float_max(rows[r].largest, wave_max(score));
        const float factor = float_exp(rows[r].largest - largest);
        const float weight = visible ? float_exp(score - largest) : 0.0f;
        rows[r].total = rows[r].total * factor + weight;
        rows[r].largest = largest;
        UNROLL_FOR (int i = 0; i < 8 * PARTS; i++) rows[r].sums[i] *= factor;
        weights[r][lane_index()] = weight;
    }
}

/* This lane's eighth of a value; of lanes behind the last, that again. */
INLINE int32_t own_eighth(int32_t part) { return int_min(lane_index() % LANES + part * LANES, EIGHTHS - 1); }

/* Adds the chunk's values. `values.at(k, p)` is this lane's eighth of part p of the value at position k of its LANES
 * positions. */
template <class Values>
INLINE void add_values(const Values &values, struct row *rows, const float (*weights)[WAVE_SIZE])
{
    const int32_t first = lane_index() / LANES * LANES;
    AHEAD_FOR (int32_t k = 0; k < LANES; k += VALUES)
        UNROLL_FOR (int p = 0; p < PARTS; p++) {
            read_eight value[VALUES];
            UNROLL_FOR (int n = 0; n < VALUES; n++) value[n] = values.at(k + n, p);
            UNROLL_FOR (int r = 0; r < ROWS; r++) {
                const float *weight = weights[r] + first + k;
                UNROLL_FOR (int n = 0; n < VALUES; n++)
                    UNROLL_FOR (int i = 0; i < 8; i++)
                        rows[r].sums[8 * p + i] = float_fma(weight[n], (float)value[n][i], rows[r].sums[8 * p + i]);
            }
        }
}

/* All lanes get the split's total, and the sums of their elements. */
INLINE void end_split(struct row *row)
{
    row->total = wave_sum(row->total);
    UNROLL_FOR (int i = 0; i < 8 * PARTS; i++) {
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
    UNROLL_FOR (int i = 0; i < 8 * PARTS; i++) all->sums[i] = all->sums[i] * before + split->sums[i] * now;
}

/* A score without a value joins the softmax, where SINKS: float32[NUM_HEADS]. */
INLINE void add_sink(struct row *all, const void *sinks, int32_t head)
{
    if (!SINKS) return;
    const float sink = ((const GLOBAL_MEMORY float *)sinks)[head], largest = float_max(all->largest, sink);
    const float before = float_exp(all->largest - largest);
    all->total = all->total * before + float_exp(sink - largest);
    UNROLL_FOR (int i = 0; i < 8 * PARTS; i++) all->sums[i] *= before;
}

/* Elements 8 * eighth .. + 7 of the output of a head, which `sums` are. */
INLINE void write_eighth(const float *sums, float total, void *out, int32_t token, int32_t head, int32_t eighth)
{
    const size_t first = ((size_t)token * NUM_HEADS + head) * VALUE_DIM + 8 * eighth;
    const float inverse = 1.0f / total;
    float values[8];
    UNROLL_FOR (int i = 0; i < 8; i++) values[i] = sums[i] * inverse + 0.0f; /* + 0: no zero has a sign */
#if OUT_Q8
    quantize_eight(values, (GLOBAL_MEMORY struct q8_block *)out + first / 32, first % 32);
#elif VALUE_DIM % 8
    UNROLL_FOR (int i = 0; i < 8; i++)
        if (8 * eighth + i < VALUE_DIM) ((GLOBAL_MEMORY float *)out)[first + i] = values[i];
#else
    UNROLL_FOR (int i = 0; i < 8; i += 4)
        *(GLOBAL_MEMORY f32x4 *)((GLOBAL_MEMORY float *)out + first + i) =
            f32x4{ values[i], values[i + 1], values[i + 2], values[i + 3] };
#endif
}

/* What lanes hold of the output of a head: `lane` of LANES its parts. */
INLINE void write_head(const struct row *row, void *out, int32_t token, int32_t head, int32_t lane)
{
    UNROLL_FOR (int p = 0; p < PARTS; p++)
        if (lane + p * LANES < EIGHTHS && lane < LANES)
            write_eighth(row->sums + 8 * p, row->total, out, token, head, lane + p * LANES);
}
