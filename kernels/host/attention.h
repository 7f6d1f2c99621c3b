/* Attention of each token over the KV blocks of its own sequence, grouped queries.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, SCALE, OUT_Q8 (needs VALUE_DIM a multiple of 32), KV_Q8_0. Those of
 * kv_blocks.h and attention_options.h.
 * Arguments: qkv float32[T, QUERY_STRIDE], queries first, key blocks, value blocks, out [T, NUM_HEADS * VALUE_DIM],
 * where SINKS sinks float32[NUM_HEADS].
 * KV blocks: [block, kv head], each as in kv_blocks.h. A work item is one head of ROWS_MAX neighbouring tokens; those
 * of one sequence share the loads.
 *
 * Every row walks the same spans of 256 positions, from 0 or the span of the first that it sees, with a running
 * maximum. Positions that it does not see weigh exactly 0, so a row's result does not depend on the rows beside it.
 */
#include "kv_blocks.h"
#include "attention_options.h"

#define ROWS_MAX ACCUMULATORS
#define SPAN 256
#define LOWEST -3.0e38f

/* Positions of the sequence that a token is of, which are all in the step. */
INLINE int32_t sequence_length(const struct step *step, int32_t token)
{
    int32_t last = token;
    while (last + 1 < step->num_tokens && step->rows[last + 1] == step->rows[token]) last++;
    return step->positions[last] + 1;
}

static int32_t attention_items(const struct step *step)
{
    return (step->num_tokens + ROWS_MAX - 1) / ROWS_MAX * NUM_HEADS;
}

struct rows {
    const float *query[ROWS_MAX];
    int32_t position[ROWS_MAX];
    int32_t length; /* of the sequence, where it is seen both ways */
    float slope; /* of ALiBi */
#if SPANS
    const int32_t *begins, *ends; /* of what positions see */
#endif
#if SEES_AHEAD
    const int32_t *ends; /* of what tokens see; null: each is the last itself */
    int32_t shift; /* from a position to its token */
#endif
    float largest[ROWS_MAX], total[ROWS_MAX];
    float scores[ROWS_MAX][SPAN] __attribute__((aligned(64)));
    float sums[ROWS_MAX][VALUE_WIDTH] __attribute__((aligned(64)));
};

INLINE int32_t row_first(const struct rows *r, int i)
{
#if SPANS
    return r->begins[r->position[i]];
#else
    return first_seen(r->position[i]);
#endif
}

INLINE int32_t row_last(const struct rows *r, int i)
{
#if SPANS
    return r->ends[r->position[i]] - 1;
#elif SEES_AHEAD
    return r->ends ? r->ends[r->position[i] + r->shift] - 1 : r->position[i];
#else
    return last_seen(r->position[i], r->length);
#endif
}

/* Products of queries with the keys of 16 positions, whose elements are neighbours. */
INLINE void multiply_rows(const struct rows *r, const uint8_t *keys, float dots[][16], const int count)
{
    float scales[(KEY_WIDTH + 31) / 32][16];
    for (int32_t d = 0; d < KEY_WIDTH; d += 32) load_scales(keys, d, scales[d / 32]);
    for (int32_t p = 0; p < 16; p++) {
        f32x16 sums[ROWS_MAX];
        for (int i = 0; i < count; i++) sums[i] = splat(0);
        for (int32_t d = 0; d < KEY_WIDTH; d += 16) {
            const f32x16 key = load_value(keys, p, d, scales[d / 32]);
            for (int i = 0; i < count; i++) sums[i] = vector_fma(load_some(r->query[i], d, HEAD_DIM), key, sums[i]);
        }
        for (int i = 0; i < count; i++) dots[i][p] = horizontal_sum(sums[i]);
    }
}

/* The same, of keys of which the positions are neighbours. */
INLINE void multiply_columns(const struct rows *r, const uint8_t *keys, f32x16 *dots, const int count)
{
    for (int i = 0; i < count; i++) dots[i] = splat(0);
    for (int32_t d = 0; d < HEAD_DIM; d++) {
        const f32x16 key = load_keys(keys, d);
        for (int i = 0; i < count; i++) dots[i] = vector_fma(splat(r->query[i][d]), key, dots[i]);
    }
}

/* Scores of 16 positions from `first` on, for all rows. */
INLINE void score_keys(struct rows *r, const uint8_t *keys, int32_t first, int32_t column, const int count)
{
    const i32x16 lane = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    f32x16 dots[ROWS_MAX];
    if (VALUES_IN_KEYS) {
        float rows[ROWS_MAX][16];
        multiply_rows(r, keys, rows, count);
        for (int i = 0; i < count; i++) dots[i] = load_f32(rows[i]);
    } else {
        multiply_columns(r, keys, dots, count);
    }
    for (int i = 0; i < count; i++) {
        i32x16 visible = (lane + first) <= splat_int(row_last(r, i));
        if (LIMITED) visible &= (lane + first) >= splat_int(row_first(r, i));
        f32x16 score = dots[i] * SCALE;
        if (SOFTCAP > 0) score = SOFTCAP - 2 * SOFTCAP / (vector_exp(score * (2 / SOFTCAP)) + 1);
        if (MAX_BIAS > 0) score -= r->slope * vector_abs(to_f32(lane + first - r->position[i]));
        store_f32(r->scores[i] + column, vector_select(visible, score, splat(-__builtin_inff())));
    }
}

/* Scores to weights; what was summed before is rescaled to the new maximum. */
INLINE void soften_span(struct rows *r, int32_t width, const int count)
{
    for (int i = 0; i < count; i++) {
        f32x16 largest = splat(r->largest[i]), total = splat(0);
        for (int32_t c = 0; c < width; c += 16) largest = vector_max(largest, load_f32(r->scores[i] + c));
        const float maximum = horizontal_max(largest), factor = vector_exp(splat(r->largest[i] - maximum))[0];
        for (int32_t c = 0; c < width; c += 16) {
            const f32x16 score = load_f32(r->scores[i] + c);
            const i32x16 visible = score > splat(-__builtin_inff());
            const f32x16 weight = vector_select(visible, vector_exp(score - maximum), splat(0));
            store_f32(r->scores[i] + c, weight);
            total += weight;
        }
        r->total[i] = r->total[i] * factor + horizontal_sum(total);
        r->largest[i] = maximum;
        for (int32_t d = 0; d < VALUE_WIDTH; d += 16) store_f32(r->sums[i] + d, load_f32(r->sums[i] + d) * factor);
    }
}

INLINE void add_values(struct rows *r, const uint8_t *values, int32_t column, int32_t positions, const int count)
{
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16) {
        float scales[16];
        f32x16 sums[ROWS_MAX];
        load_scales(values, d, scales);
        for (int i = 0; i < count; i++) sums[i] = load_f32(r->sums[i] + d);
        for (int32_t p = 0; p < positions; p++) {
            const f32x16 value = load_value(values, p, d, scales);
            for (int i = 0; i < count; i++) sums[i] = vector_fma(splat(r->scores[i][column + p]), value, sums[i]);
        }
        for (int i = 0; i < count; i++) store_f32(r->sums[i] + d, sums[i]);
    }
}

/* `count` neighbouring positions of one sequence. */
INLINE void attend(struct rows *r, const uint8_t *keys, const uint8_t *values, const int32_t *blocks, const int count)
{
    const int32_t end = row_last(r, count - 1) + 1, begin = row_first(r, 0) / 16 * 16;
    for (int i = 0; i < count; i++) {
        r->largest[i] = LOWEST;
        r->total[i] = 0;
        for (int32_t d = 0; d < VALUE_WIDTH; d += 16) store_f32(r->sums[i] + d, splat(0));
    }
    for (int32_t start = begin / SPAN * SPAN; start < end; start += SPAN) {
        const int32_t width = int_min(SPAN, (end - start + 15) / 16 * 16);
        const int32_t skipped = LIMITED && begin > start ? begin - start : 0;
        for (int32_t c = 0; LIMITED && c < skipped; c += 16)
            for (int i = 0; i < count; i++) store_f32(r->scores[i] + c, splat(-__builtin_inff()));
        for (int32_t c = skipped; c < width; c += 16)
            score_keys(r, keys + blocks[(start + c) / 16] * KEY_BLOCK_BYTES, start + c, c, count);
        soften_span(r, width, count);
        for (int32_t c = skipped; c < width; c += 16)
            add_values(r, values + blocks[(start + c) / 16] * VALUE_BLOCK_BYTES, c, int_min(16, end - start - c),
                       count);
    }
}

/* A score without a value joins the softmax; returns what sums are multiplied with. */
INLINE float inverse_total(const struct rows *r, int i, const float *sink)
{
    if (!SINKS) return 1.0f / r->total[i];
    const float largest = *sink > r->largest[i] ? *sink : r->largest[i];
    const float before = vector_exp(splat(r->largest[i] - largest))[0];
    return before / (r->total[i] * before + vector_exp(splat(*sink - largest))[0]);
}

static void write_row(const struct rows *r, int i, void *const *arguments, int32_t token, int32_t head)
{
    float values[VALUE_WIDTH] __attribute__((aligned(64)));
    const float inverse = inverse_total(r, i, (const float *)arguments[4] + head);
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16) store_f32(values + d, load_f32(r->sums[i] + d) * inverse);
    const size_t first = (size_t)token * NUM_HEADS * VALUE_DIM + (size_t)head * VALUE_DIM;
    if (OUT_Q8)
        for (int32_t d = 0; d < VALUE_DIM; d += 32)
            quantize_block(values + d, (struct q8_block *)arguments[3] + (first + d) / 32);
    else
        __builtin_memcpy((float *)arguments[3] + first, values, VALUE_DIM * sizeof *values);
}

static void attention_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    struct rows r;
#if SPANS
    r.begins = step->rope_positions;
    r.ends = step->rope_positions + 3 * (size_t)step->num_tokens;
#endif
#if SEES_AHEAD
    r.ends = step->rope_positions ? step->rope_positions + 3 * (size_t)step->num_tokens : 0;
#endif
    for (int32_t item = begin; item < end; item++) {
        const int32_t head = item % NUM_HEADS, kv_head = head / (NUM_HEADS / NUM_KV_HEADS);
        const uint8_t *keys = (const uint8_t *)arguments[1] + (size_t)kv_head * KEY_BYTES;
        const uint8_t *values = (const uint8_t *)arguments[2] + (size_t)kv_head * VALUE_BYTES;
        const int32_t last = int_min(step->num_tokens, (item / NUM_HEADS + 1) * ROWS_MAX);
        int32_t token = item / NUM_HEADS * ROWS_MAX;
        if (MAX_BIAS > 0) r.slope = vector_exp(splat(slope_exponent(head)))[0];
        while (token < last) {
            int32_t count = 0;
            do {
                r.query[count] = (const float *)arguments[0] + (size_t)(token + count) * QUERY_STRIDE + head * HEAD_DIM;
                r.position[count] = step->positions[token + count];
                count++;
            } while (token + count < last && step->rows[token + count] == step->rows[token] &&
                     step->positions[token + count] == r.position[count - 1] + 1);
            const int32_t *blocks = step->block_table + (size_t)step->rows[token] * step->blocks_per_row;
            if (BOTH_WAYS) r.length = sequence_length(step, token);
#if SEES_AHEAD
            r.shift = token - r.position[0];
#endif
            if (count == ROWS_MAX) {
                attend(&r, keys, values, blocks, ROWS_MAX);
            } else {
                count = 1;
                attend(&r, keys, values, blocks, 1);
            }
            for (int32_t i = 0; i < count; i++) write_row(&r, i, arguments, token + i, head);
            token += count;
        }
    }
}
EXPORT const struct kernel SYMBOL = { attention_items, attention_run };
