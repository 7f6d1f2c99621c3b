/* Attention of a few rows, whose loads they share, over one span of positions. What becomes of spans is in attention.h.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, SCALE. Those of kv_blocks.h and attention_options.h.
 * Each row has sums of its own, in one order: of elements for a score, of positions for a value. So its bits depend
 * neither on the rows beside it nor on how many blocks are read at once.
 */
#ifndef ROCMFORGE_ATTENTION_TILE_H
#define ROCMFORGE_ATTENTION_TILE_H
#include "kv_blocks.h"
#include "attention_options.h"

#define SPAN 256
#define LOWEST -3.0e38f
#define TOKENS ACCUMULATORS /* neighbouring ones of a sequence that make a tile, of one head */
#define GROUP (NUM_HEADS / NUM_KV_HEADS)
#define PARTS ((GROUP + ACCUMULATORS - 1) / ACCUMULATORS) /* of a group of heads */
#define PART ((GROUP + PARTS - 1) / PARTS) /* heads that make a tile, of one token */
#define ROWS_MAX (TOKENS > PART ? TOKENS : PART)

/* What a row has come to: of one span, or of all up to it. A record of it is one cache line and its sums. */
struct attended {
    float largest, total;
    float padding[14];
    float sums[VALUE_WIDTH];
};

struct tile {
    const uint8_t *keys, *values; /* of the head, in block 0 */
    const int32_t *blocks;
    const float *query[ROWS_MAX];
    int32_t position[ROWS_MAX];
    int32_t first[ROWS_MAX], last[ROWS_MAX]; /* positions that are seen */
    float slope[ROWS_MAX]; /* of ALiBi */
    struct attended *to[ROWS_MAX];
    float scores[ROWS_MAX][SPAN] __attribute__((aligned(64)));
};

/* Vectors that `rows` rows sum to at once: a power of 2 that divides `most`. One where rows are enough, for then each
 * row's number is an operand in memory. */
INLINE int vectors_at_once(const int rows, const int most)
{
    int count = 1;
    if (rows >= ACCUMULATORS) return 1;
    while (2 * count * rows <= MORE_ACCUMULATORS && most % (2 * count) == 0) count *= 2;
    return count;
}

/* Products of queries with the keys of 16 positions, whose elements are neighbours. */
INLINE void multiply_rows(const struct tile *t, const uint8_t *keys, float dots[][16], const int rows)
{
    float scales[(KEY_WIDTH + 31) / 32][16];
    for (int32_t d = 0; d < KEY_WIDTH; d += 32) load_scales(keys, d, scales[d / 32]);
    for (int32_t p = 0; p < 16; p++) {
        f32x16 sums[ROWS_MAX];
        for (int i = 0; i < rows; i++) sums[i] = splat(0);
        for (int32_t d = 0; d < KEY_WIDTH; d += 16) {
            const f32x16 key = load_value(keys, p, d, scales[d / 32]);
            for (int i = 0; i < rows; i++) sums[i] = vector_fma(load_some(t->query[i], d, HEAD_DIM), key, sums[i]);
        }
        for (int i = 0; i < rows; i++) dots[i][p] = horizontal_sum(sums[i]);
    }
}

/* The same, of `wide` blocks of keys of which the positions are neighbours; fetches meanwhile what is read `later`. */
INLINE void multiply_columns(const struct tile *t, const uint8_t *const *keys, const uint8_t *const *later,
                             f32x16 dots[][MORE_ACCUMULATORS], const int rows, const int wide)
{
    f32x16 sums[ROWS_MAX][MORE_ACCUMULATORS], scales[MORE_ACCUMULATORS];
    for (int i = 0; i < rows; i++)
        for (int w = 0; w < wide; w++) sums[i][w] = splat(0);
    for (int32_t first = 0; first < HEAD_DIM; first += 32) {
        for (int w = 0; w < wide; w++) scales[w] = load_key_scales(keys[w], first);
        for (int32_t d = first; d < int_min(first + 32, HEAD_DIM); d++) {
            f32x16 key[MORE_ACCUMULATORS];
            for (int w = 0; w < wide; w++) key[w] = load_keys(keys[w], d, scales[w]);
            for (int w = 0; w < 2 * wide; w++)
                if (d * 16 * KV_ELEMENT % 64 == 0) __builtin_prefetch(later[w] + d * 16 * KV_ELEMENT);
            for (int i = 0; i < rows; i++)
                for (int w = 0; w < wide; w++) sums[i][w] = vector_fma(splat(t->query[i][d]), key[w], sums[i][w]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int w = 0; w < wide; w++) dots[i][w] = sums[i][w];
}

/* What becomes of 16 products from position `first` on: their scores, where a row sees them. */
INLINE f32x16 finish_score(const struct tile *t, f32x16 dots, int32_t first, int i)
{
    const i32x16 lane = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    i32x16 visible = (lane + first) <= splat_int(t->last[i]);
    if (LIMITED) visible &= (lane + first) >= splat_int(t->first[i]);
    f32x16 score = dots * SCALE;
    if (SOFTCAP > 0) score = SOFTCAP - 2 * SOFTCAP / (vector_exp(score * (2 / SOFTCAP)) + 1);
    if (MAX_BIAS > 0) score -= t->slope[i] * vector_abs(to_f32(lane + first - t->position[i]));
    return vector_select(visible, score, splat(-__builtin_inff()));
}

/* Scores of `wide` blocks from position `first` on, which is at `column`. */
INLINE void score_keys(struct tile *t, int32_t first, int32_t column, const int rows, const int wide)
{
    f32x16 dots[ROWS_MAX][MORE_ACCUMULATORS];
    const uint8_t *keys[MORE_ACCUMULATORS], *later[2 * MORE_ACCUMULATORS];
    for (int w = 0; w < wide; w++) {
        const int32_t block = first / 16 + w, next = int_min(block + wide, t->last[rows - 1] / 16);
        keys[w] = t->keys + t->blocks[block] * KEY_BLOCK_BYTES;
        later[2 * w] = t->keys + t->blocks[next] * KEY_BLOCK_BYTES;
        later[2 * w + 1] = t->values + t->blocks[block] * VALUE_BLOCK_BYTES;
    }
    if (VALUES_IN_KEYS) {
        float products[ROWS_MAX][16];
        for (int w = 0; w < wide; w++) {
            multiply_rows(t, keys[w], products, rows);
            for (int i = 0; i < rows; i++) dots[i][w] = load_f32(products[i]);
        }
    } else {
        multiply_columns(t, keys, later, dots, rows, wide);
    }
    for (int i = 0; i < rows; i++)
        for (int w = 0; w < wide; w++)
            store_f32(t->scores[i] + column + 16 * w, finish_score(t, dots[i][w], first + 16 * w, i));
}

/* Scores of the columns [from, to) to weights. */
INLINE void soften_row(struct tile *t, int32_t from, int32_t to, int i)
{
    float *scores = t->scores[i];
    f32x16 largest = splat(LOWEST), total = splat(0);
    for (int32_t c = from; c < to; c += 16) largest = vector_max(largest, load_f32(scores + c));
    const float maximum = horizontal_max(largest);
    for (int32_t c = from; c < to; c += 16) {
        const f32x16 score = load_f32(scores + c);
        const i32x16 visible = score > splat(-__builtin_inff());
        const f32x16 weight = vector_select(visible, vector_exp(score - maximum), splat(0));
        store_f32(scores + c, weight);
        total += weight;
    }
    t->to[i]->largest = maximum;
    t->to[i]->total = horizontal_sum(total);
}

/* Sums of `wide` vectors of values from element d on, over the columns [from, to). */
INLINE void sum_values(struct tile *t, int32_t start, int32_t from, int32_t to, int32_t d, const int rows,
                       const int wide)
{
    f32x16 sums[ROWS_MAX][MORE_ACCUMULATORS];
    for (int i = 0; i < rows; i++)
        for (int w = 0; w < wide; w++) sums[i][w] = splat(0);
    for (int32_t c = from; c < to; c += 16) {
        const uint8_t *values = t->values + t->blocks[(start + c) / 16] * VALUE_BLOCK_BYTES;
        float scales[MORE_ACCUMULATORS][16];
        for (int w = 0; w < wide; w++) load_scales(values, d + 16 * w, scales[w]);
        const int32_t count = int_min(16, to - c);
        for (int32_t p = 0; p < count; p++) {
            f32x16 value[MORE_ACCUMULATORS];
            for (int w = 0; w < wide; w++) value[w] = load_value(values, p, d + 16 * w, scales[w]);
            for (int i = 0; i < rows; i++)
                for (int w = 0; w < wide; w++)
                    sums[i][w] = vector_fma(splat(t->scores[i][c + p]), value[w], sums[i][w]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int w = 0; w < wide; w++) store_f32(t->to[i]->sums + d + 16 * w, sums[i][w]);
}

/* What each row comes to over the positions [begin, end) of the span from `start` on. */
INLINE void attend_span(struct tile *t, int32_t start, int32_t begin, int32_t end, const int rows)
{
    const int wide = vectors_at_once(rows, SPAN / 16), deep = vectors_at_once(rows, VALUE_WIDTH / 16);
    const int32_t to = int_min(SPAN, end - start), from = begin > start ? (begin - start) / 16 * 16 : 0;
    int32_t c = from;
    for (; c + 16 * (wide - 1) < to; c += 16 * wide) score_keys(t, start + c, c, rows, wide);
    for (; c < to; c += 16) score_keys(t, start + c, c, rows, 1);
    for (int i = 0; i < rows; i++) soften_row(t, from, to, i);
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16 * deep) sum_values(t, start, from, to, d, rows, deep);
}

INLINE void begin_attended(struct attended *all)
{
    all->largest = LOWEST;
    all->total = 0;
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16) store_f32(all->sums + d, splat(0));
}

/* Joins the next span to those before it. The larger's factor is 1 as it stands, where that is no finite number too. */
INLINE void join_attended(struct attended *all, const struct attended *next)
{
    const float largest = all->largest > next->largest ? all->largest : next->largest;
    const float before = all->largest < largest ? vector_exp(splat(all->largest - largest))[0] : 1.0f;
    const float after = next->largest < largest ? vector_exp(splat(next->largest - largest))[0] : 1.0f;
    all->largest = largest;
    all->total = all->total * before + next->total * after;
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16)
        store_f32(all->sums + d, load_f32(all->sums + d) * before + load_f32(next->sums + d) * after);
}
#endif
