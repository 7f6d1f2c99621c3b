/* The tokens of a sequence and a block of scan.h, of kinds delta and kda.
 *
 * What a token writes depends on what the state gives for its key once it has decayed: a pass over the rows has one
 * token's part written and its output summed, decays each row for the next token, and sums what that one recalls.
 */
#include "scan_block.h"

#ifdef KIND_KDA
#define DECAYS STATE
#define DECAY(token, i) (token)->decays[i]
#define KEY_HEAD(head) (head)
#else
#define DECAYS 1
#define DECAY(token, i) (token)->decays[0]
#define KEY_HEAD(head) (MODULO ? (head) % KEY_HEADS : (head) / (HEADS / KEY_HEADS))
#endif
#define READ_AHEAD 4 /* tokens that are read at once, so that their gates share vectors; at most 16 */

#define FULL ((STATE + 15) / 16 * 16)

struct token {
    float key[FULL], query[FULL], decays[DECAYS];
    float rate; /* at which the state takes what it has not got */
};

INLINE float sum_of_squares(const float *x)
{
    f32x16 squares = splat(0);
    for (int i = 0; i < STATE; i += 16) {
        const f32x16 v = load_lanes(x + i, STATE - i);
        squares = vector_fma(v, v, squares);
    }
    return horizontal_sum(squares);
}
INLINE void multiply(const float *x, float factor, float out[FULL])
{
    for (int i = 0; i < STATE; i += 16) store_f32(out + i, load_lanes(x + i, STATE - i) * factor);
}
/* Keys and queries of `count` tokens from `first` on: x / sqrt(sum of squares + EPSILON), queries / sqrt(STATE). */
INLINE void read_units(const struct block *block, struct token *tokens, int32_t first, int32_t count)
{
    const int32_t at = KEY_HEAD(block->head) * STATE, keys = KEY_HEADS * STATE;
    const float *x = row_of(block, 4, first, QKV_STRIDE, QKV_FIRST) + at;
    float factors[2][READ_AHEAD] = { 0 };
    for (int32_t t = 0; t < count; t++) {
        factors[0][t] = sum_of_squares(x + (size_t)t * QKV_STRIDE);
        factors[1][t] = sum_of_squares(x + (size_t)t * QKV_STRIDE + keys);
    }
    for (int32_t t = 0; t < READ_AHEAD; t++) {
        factors[0][t] = 1.0f / __builtin_sqrtf((float)STATE) / __builtin_sqrtf(factors[0][t] + EPSILON);
        factors[1][t] = 1.0f / __builtin_sqrtf(factors[1][t] + EPSILON);
    }
    for (int32_t t = 0; t < count; t++) {
        multiply(x + (size_t)t * QKV_STRIDE, factors[0][t], tokens[t].query);
        multiply(x + (size_t)t * QKV_STRIDE + keys, factors[1][t], tokens[t].key);
    }
}

INLINE f32x16 decays_of(const struct block *block, f32x16 decay, f32x16 bias)
{
    return vector_decay(((const float *)block->arguments[2])[block->head] * vector_softplus(decay + bias));
}

/* Rates and decays of `count` tokens from `first` on. */
INLINE void read_gates(const struct block *block, struct token *tokens, int32_t first, int32_t count)
{
    const int32_t head = block->head;
    const float *bias = (const float *)block->arguments[3] + head * DECAYS;
    float betas[16] = { 0 };
#ifdef KIND_DELTA
    const int32_t at = head / GATE_HEADS * (2 * GATE_HEADS) + head % GATE_HEADS;
    float decays[16] = { 0 };
    for (int32_t t = 0; t < count; t++) {
        const float *gates = row_of(block, 5, first + t, GATES_STRIDE, GATES_FIRST) + at;
        betas[t] = gates[0];
        decays[t] = gates[GATE_HEADS];
    }
    const f32x16 found = decays_of(block, load_f32(decays), splat(bias[0]));
    for (int32_t t = 0; t < count; t++) tokens[t].decays[0] = found[t];
#else
    for (int32_t t = 0; t < count; t++) {
        betas[t] = row_of(block, 6, first + t, BETA_STRIDE, BETA_FIRST)[head];
        const float *decays = row_of(block, 5, first + t, DECAY_STRIDE, DECAY_FIRST) + head * STATE;
        for (int i = 0; i < STATE; i += 16) {
            const f32x16 own = load_lanes(decays + i, STATE - i), added = load_lanes(bias + i, STATE - i);
            store_lanes(tokens[t].decays + i, decays_of(block, own, added), STATE - i);
        }
    }
#endif
    const f32x16 beta = load_f32(betas), rates = 1.0f / (1.0f + vector_exp(-beta));
    const f32x16 kept = vector_select(beta == beta, rates, beta); /* keeps NaN */
    for (int32_t t = 0; t < count; t++) tokens[t].rate = kept[t];
}

/* Reads tokens from `first` on; returns the one behind them. */
static int32_t read_tokens(const struct block *block, struct token *tokens, int32_t first, int32_t end)
{
    const int32_t count = int_min(READ_AHEAD, end - first);
    read_units(block, tokens, first, count);
    read_gates(block, tokens, first, count);
    return first + count;
}

/* A row decays for a token, which recalls it. */
INLINE void decay_row(struct block *block, const struct token *token, int i, int v, f32x16 row, f32x16 *recalled)
{
    row = row * DECAY(token, i);
    block->state[i][v] = row;
    *recalled = vector_fma(row, splat(token->key[i]), *recalled);
}
INLINE void open_row(struct block *block, int first, const struct token *token, const char *before, int i,
                     f32x16 recalled[WIDE])
{
    for (int v = 0; v < WIDE; v++) {
        const f32x16 row = before ? load_f32(before + row_at(i, first + v)) : splat(0);
        decay_row(block, token, i, first + v, row, recalled + v);
    }
}
/* The state that a sequence goes on from, as the first token has it. */
INLINE void open_rows(struct block *block, int first, const struct token *token, const char *before, f32x16 *recalled)
{
    struct sums sums;
    clear(&sums);
    for (int i = 0; i + 1 < STATE; i += 2) {
        open_row(block, first, token, before, i, sums.of[0]);
        open_row(block, first, token, before, i + 1, sums.of[1]);
    }
    if (STATE % 2) open_row(block, first, token, before, STATE - 1, sums.of[0]);
    for (int v = 0; v < WIDE; v++) recalled[first + v] = sum_of(&sums, v);
}

INLINE void pass_row(struct block *block, int first, const struct token *token, const struct token *next,
                     const f32x16 written[WIDE], char *after, int i, f32x16 given[WIDE], f32x16 recalled[WIDE])
{
    for (int v = 0; v < WIDE; v++) {
        const f32x16 row = vector_fma(splat(token->key[i]), written[v], block->state[i][first + v]);
        given[v] = vector_fma(row, splat(token->query[i]), given[v]);
        if (after) store_f32(after + row_at(i, first + v), row);
        if (next) decay_row(block, next, i, first + v, row, recalled + v);
    }
}
/* `recalled` is of the token, and becomes the next one's, which may be null. */
INLINE void pass_rows(struct block *block, int first, const struct token *token, const struct token *next,
                      f32x16 *recalled, int32_t t, char *after)
{
    const float *values = row_of(block, 4, t, QKV_STRIDE, QKV_FIRST) + 2 * KEY_HEADS * STATE + block->head * COLUMNS;
    f32x16 written[WIDE];
    struct sums given, kept;
    clear(&given);
    clear(&kept);
    for (int v = 0; v < WIDE; v++) {
        const int lane = 16 * (first + v);
        written[v] = load_lanes(values + block->column + lane, block->count - lane);
        written[v] = token->rate * (written[v] - recalled[first + v]);
    }
    for (int i = 0; i + 1 < STATE; i += 2) {
        pass_row(block, first, token, next, written, after, i, given.of[0], kept.of[0]);
        pass_row(block, first, token, next, written, after, i + 1, given.of[1], kept.of[1]);
    }
    if (STATE % 2) pass_row(block, first, token, next, written, after, STATE - 1, given.of[0], kept.of[0]);
    for (int v = 0; v < WIDE; v++) {
        const int lane = 16 * (first + v);
        store_lanes(out_of(block, t) + lane, sum_of(&given, v) + splat(0), block->count - lane);
        recalled[first + v] = sum_of(&kept, v);
    }
}

static void scan_tokens(struct block *block, const struct step *step, int32_t sequence, size_t offset)
{
    struct token tokens[2 * READ_AHEAD];
    f32x16 recalled[VECTORS];
    const int32_t begin = step->sequence_starts[sequence], end = step->sequence_starts[sequence + 1];
    const char *before = state_before(step, block->arguments[1], sequence, offset);
    int32_t ready = read_tokens(block, tokens, begin, end);
    for (int v = 0; v < VECTORS; v += WIDE) open_rows(block, v, tokens, before, recalled);
    for (int32_t t = begin; t < end; t++) {
        const int32_t next = t + 1;
        if (next == ready) ready = read_tokens(block, tokens + (next - begin) % (2 * READ_AHEAD), next, end);
        const struct token *one = tokens + (t - begin) % (2 * READ_AHEAD);
        const struct token *other = next < end ? tokens + (next - begin) % (2 * READ_AHEAD) : 0;
        char *after = state_after(step, block->arguments[1], t, offset);
        for (int v = 0; v < VECTORS; v += WIDE)
            if (other && !after)
                pass_rows(block, v, one, other, recalled, t, 0);
            else if (other)
                pass_rows(block, v, one, other, recalled, t, after);
            else
                pass_rows(block, v, one, 0, recalled, t, after);
    }
}
