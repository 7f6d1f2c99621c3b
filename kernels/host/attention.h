/* Attention of each token over the KV blocks of its own sequence, grouped queries.
 *
 * Constants: NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, SCALE, OUT_Q8 (needs VALUE_DIM a multiple of 32), KV_Q8_0, AT_OUTPUT_ROWS
 * where only tokens are needed of which outputs are read. Those of kv_blocks.h and attention_options.h.
 * Arguments: qkv float32[T, QUERY_STRIDE], queries first, key blocks, value blocks, out [T, NUM_HEADS * VALUE_DIM],
 * records: int32[SPLIT_TOKENS * NUM_HEADS], zeros, filled up to a multiple of 16, and struct attended[SPLIT_TOKENS,
 * NUM_HEADS, spans of a sequence]; where SINKS sinks float32[NUM_HEADS].
 * KV blocks: [block, kv head], each as in kv_blocks.h.
 *
 * Every row walks the same spans of 256 positions, from 0 or the span of the first that it sees. Each is summed by
 * itself, and joined to those before it, in their order. Positions that a row does not see weigh exactly 0. So its
 * result depends neither on the rows beside it nor on who sums which span.
 *
 * A work item is a part of a group of heads, for neighbouring tokens; where few tokens are computed, for one token, and
 * of few in a long context for one span of it: who is the last to have made its record joins them.
 */
#include "attention_tile.h"
#include "quantize_blocks.h"

#define SPLIT_TOKENS 8

/* How a step's work is cut: items are [spans, kv heads, parts, tokens]. */
struct cut {
    int32_t tokens; /* of an item */
    int32_t first_span, num_spans; /* num_spans 0: an item has all of them */
};

/* Positions of the sequence that a token is of, which are all in the step. */
INLINE int32_t sequence_length(const struct step *step, int32_t token)
{
    int32_t last = token;
    while (last + 1 < step->num_tokens && step->rows[last + 1] == step->rows[token]) last++;
    return step->positions[last] + 1;
}

static struct cut cut_step(const struct step *step)
{
    int32_t runs = 1, first = INT32_MAX, last = 0;
    for (int32_t t = 1; t < step->num_tokens; t++) runs += step->rows[t] != step->rows[t - 1];
    struct cut cut = { step->num_tokens < runs * TOKENS / 2 ? 1 : TOKENS, 0, 0 };
    if (BOTH_WAYS || (SEES_AHEAD && step->rope_positions) || step->num_tokens > SPLIT_TOKENS) return cut;
    for (int32_t t = 0; t < step->num_tokens; t++) {
        first = int_min(first, first_seen(step->positions[t]));
        last = last > step->positions[t] ? last : step->positions[t];
    }
    if (first / SPAN >= last / SPAN) return cut;
    return (struct cut){ 1, first / SPAN, last / SPAN - first / SPAN + 1 };
}

static int32_t attention_items(const struct step *step)
{
    const struct cut cut = cut_step(step);
    const int32_t spans = cut.num_spans ? cut.num_spans : 1;
    return (step->num_tokens + cut.tokens - 1) / cut.tokens * NUM_KV_HEADS * PARTS * spans;
}

struct work {
    const struct step *step;
    void *const *arguments;
    struct cut cut;
    struct tile tile;
    struct attended next[ROWS_MAX], all[TOKENS * PART];
#if SPANS
    const int32_t *begins, *ends; /* of what positions see */
#endif
#if SEES_AHEAD
    const int32_t *ends; /* of what tokens see; null: each is the last itself */
#endif
};

/* Row i of the tile is of that token. */
static void place_token(struct work *w, int i, int32_t token)
{
    struct tile *t = &w->tile;
    const struct step *step = w->step;
    const int32_t position = step->positions[token];
    t->position[i] = position;
#if SPANS
    t->first[i] = w->begins[position];
    t->last[i] = w->ends[position] - 1;
#else
    t->first[i] = first_seen(position);
    t->last[i] = last_seen(position, BOTH_WAYS ? sequence_length(step, token) : 0);
#endif
#if SEES_AHEAD
    if (w->ends) t->last[i] = w->ends[token] - 1;
#endif
}

/* It is of that head of it, and comes to `to`. */
INLINE void place_head(struct work *w, int i, int32_t token, int32_t head, struct attended *to)
{
    struct tile *t = &w->tile;
    t->query[i] = (const float *)w->arguments[0] + (size_t)token * QUERY_STRIDE + (size_t)head * HEAD_DIM;
    if (MAX_BIAS > 0) t->slope[i] = vector_exp(splat(slope_exponent(head)))[0];
    t->to[i] = to;
}

/* A score without a value joins the softmax; returns what sums are multiplied with. */
INLINE float inverse_total(const struct attended *all, const float *sink)
{
    if (!SINKS) return 1.0f / all->total;
    const float largest = *sink > all->largest ? *sink : all->largest;
    const float before = vector_exp(splat(all->largest - largest))[0];
    return before / (all->total * before + vector_exp(splat(*sink - largest))[0]);
}

static void write_row(const struct attended *all, void *const *arguments, int32_t token, int32_t head)
{
    float values[VALUE_WIDTH] __attribute__((aligned(64)));
    const float inverse = inverse_total(all, (const float *)arguments[5] + head);
    for (int32_t d = 0; d < VALUE_WIDTH; d += 16) store_f32(values + d, load_f32(all->sums + d) * inverse);
    const size_t first = (size_t)token * NUM_HEADS * VALUE_DIM + (size_t)head * VALUE_DIM;
    if (OUT_Q8)
        quantize_row(values, (struct q8_block *)arguments[3] + first / 32, VALUE_DIM);
    else
        __builtin_memcpy((float *)arguments[3] + first, values, VALUE_DIM * sizeof *values);
}

/* Head i of a part; the last part may have fewer, and repeats its last. */
INLINE int32_t part_head(int32_t kv_head, int32_t part, int32_t i)
{
    return kv_head * GROUP + int_min(part * PART + i, GROUP - 1);
}

/* Tiles of TOKENS tokens from `token` on, of which each is of one head, over all spans. */
static void attend_tokens(struct work *w, int32_t token, int32_t kv_head, int32_t part)
{
    struct tile *t = &w->tile;
    for (int i = 0; i < TOKENS; i++) place_token(w, i, token + i);
    const int32_t begin = t->first[0], end = t->last[TOKENS - 1] + 1;
    for (int i = 0; i < TOKENS * PART; i++) begin_attended(w->all + i);
    for (int32_t start = begin / SPAN * SPAN; start < end; start += SPAN) {
        for (int32_t h = 0; h < PART; h++) {
            for (int i = 0; i < TOKENS; i++) place_head(w, i, token + i, part_head(kv_head, part, h), w->next + i);
            attend_span(t, start, begin, end, TOKENS);
            for (int i = 0; i < TOKENS; i++) join_attended(w->all + h * TOKENS + i, w->next + i);
        }
    }
    for (int32_t h = 0; h < PART; h++)
        for (int i = 0; i < TOKENS; i++)
            write_row(w->all + h * TOKENS + i, w->arguments, token + i, part_head(kv_head, part, h));
}

/* A tile of the heads of one token over one span. */
static void attend_part(struct tile *t, int32_t start) { attend_span(t, start, t->first[0], t->last[0] + 1, PART); }

/* A tile of the heads of one token, over all spans. */
static void attend_heads(struct work *w, int32_t token, int32_t kv_head, int32_t part)
{
    struct tile *t = &w->tile;
    for (int i = 0; i < PART; i++) {
        place_token(w, i, token);
        place_head(w, i, token, part_head(kv_head, part, i), w->next + i);
        begin_attended(w->all + i);
    }
    for (int32_t start = t->first[0] / SPAN * SPAN; start <= t->last[0]; start += SPAN) {
        attend_part(t, start);
        for (int i = 0; i < PART; i++) join_attended(w->all + i, w->next + i);
    }
    for (int i = 0; i < PART; i++) write_row(w->all + i, w->arguments, token, part_head(kv_head, part, i));
}

static struct attended *record(const struct work *w, int32_t token, int32_t head, int32_t span)
{
    struct attended *all = (struct attended *)((float *)w->arguments[4] + (SPLIT_TOKENS * NUM_HEADS + 15) / 16 * 16);
    return all + ((size_t)token * NUM_HEADS + head) * (size_t)w->cut.num_spans + span;
}

/* The same over one span, for its records; the last of a token's joins them. */
static void attend_one_span(struct work *w, int32_t token, int32_t kv_head, int32_t part, int32_t span)
{
    struct tile *t = &w->tile;
    const struct cut *cut = &w->cut;
    const int32_t start = (cut->first_span + span) * SPAN;
    for (int i = 0; i < PART; i++) {
        const int32_t head = part_head(kv_head, part, i);
        place_token(w, i, token);
        place_head(w, i, token, head, record(w, token, head, span));
    }
    const int32_t first = t->first[0], last = t->last[0];
    if (start <= last && start + SPAN > first) attend_part(t, start);
    int32_t *arrived = (int32_t *)w->arguments[4] + (token * NUM_KV_HEADS + kv_head) * PARTS + part;
    if (__atomic_add_fetch(arrived, 1, __ATOMIC_ACQ_REL) < cut->num_spans) return;
    *arrived = 0; /* for the next step */
    for (int i = 0; i < PART; i++) {
        const int32_t head = part_head(kv_head, part, i);
        begin_attended(w->all);
        for (int32_t s = first / SPAN; s <= last / SPAN; s++)
            join_attended(w->all, record(w, token, head, s - cut->first_span));
        write_row(w->all, w->arguments, token, head);
    }
}

/* Neighbouring tokens of one sequence from `token` on, `last` excluded. */
INLINE int32_t count_neighbours(const struct step *step, int32_t token, int32_t last)
{
    int32_t count = 1;
    while (token + count < last && step->rows[token + count] == step->rows[token] &&
           step->positions[token + count] == step->positions[token] + count)
        count++;
    return count;
}

/* Whether outputs are read of one of the tokens from `token` on, `last` excluded. */
INLINE int are_read(const struct step *step, int32_t token, int32_t last)
{
    if (!CHOSEN_ROWS(step)) return 1;
    int32_t i = 0;
    while (i < step->num_outputs && step->output_rows[i] < token) i++;
    return i < step->num_outputs && step->output_rows[i] < last;
}

static void attention_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    struct work w = { .step = step, .arguments = arguments, .cut = cut_step(step) };
#if SPANS
    w.begins = step->rope_positions;
    w.ends = step->rope_positions + 3 * (size_t)step->num_tokens;
#endif
#if SEES_AHEAD
    w.ends = step->rope_positions ? step->rope_positions + 3 * (size_t)step->num_tokens : 0;
#endif
    const int32_t tiles = (step->num_tokens + w.cut.tokens - 1) / w.cut.tokens;
    for (int32_t item = begin; item < end; item++) {
        int32_t token = item % tiles * w.cut.tokens;
        const int32_t last = int_min(step->num_tokens, token + w.cut.tokens);
        const int32_t heads = item / tiles, part = heads % PARTS, kv_head = heads / PARTS % NUM_KV_HEADS;
        w.tile.keys = (const uint8_t *)arguments[1] + (size_t)kv_head * KEY_BYTES;
        w.tile.values = (const uint8_t *)arguments[2] + (size_t)kv_head * VALUE_BYTES;
        if (!w.cut.num_spans && !are_read(step, token, last)) continue;
        while (token < last) {
            w.tile.blocks = step->block_table + (size_t)step->rows[token] * step->blocks_per_row;
            if (w.cut.num_spans) {
                attend_one_span(&w, token++, kv_head, part, heads / PARTS / NUM_KV_HEADS);
            } else if (count_neighbours(step, token, last) == TOKENS) {
                attend_tokens(&w, token, kv_head, part);
                token += TOKENS;
            } else {
                attend_heads(&w, token++, kv_head, part);
            }
        }
    }
}
EXPORT const struct kernel SYMBOL = { attention_items, attention_run };
