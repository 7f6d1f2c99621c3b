/* The tokens of a sequence and a block of scan.h, of kinds mamba, mamba2 and linear.
 *
 * What a token writes does not depend on the state: some tokens pass over it at once, so that a row is loaded and stored
 * once for all of them.
 */
#include "scan_block.h"

#define READ_AHEAD 8 /* tokens that are read at once, so that the steps of one head share vectors */
/* Tokens of a pass: as many as registers hold sums of; one where it takes longest to make decays. */
#if MANY_REGISTERS && !defined(KIND_MAMBA)
#define AT_ONCE 4
#else
#define AT_ONCE 1
#endif

/* Where inputs stand among the arguments. */
#ifdef KIND_LINEAR
#define B_INPUT 5
#else
#define B_INPUT 6
#endif

/* Of mamba a lane's step, of which each row makes a decay; of the others the head's decay, the same in all. */
#ifdef KIND_MAMBA
typedef f32x16 decay_part;
#define DECAY_PARTS WIDE
#define DECAY(decays, i, first, v) vector_decay(decays[v] * block->a[i][first + v])
#else
typedef float decay_part;
#define DECAY_PARTS 1
#define DECAY(decays, i, first, v) decays[0]
#endif

struct token {
    const float *key, *query;
    f32x16 values[VECTORS], added[VECTORS];
    decay_part decays[VECTORS];
};

static void open_block(struct block *block)
{
#ifdef KIND_MAMBA
    const float *a = (const float *)block->arguments[2] + (size_t)block->head * STATE;
    for (int i = 0; i < STATE; i++) {
        float lanes[LANES] = { 0 };
        for (int32_t lane = 0; lane < block->count; lane++) lanes[lane] = a[lane * STATE + i];
        for (int v = 0; v < VECTORS; v++) block->a[i][v] = load_f32(lanes + 16 * v);
    }
#endif
    (void)block;
}

/* The steps of `count` tokens from `first` on: of mamba2 all at once, each lane a token; of linear 1. */
INLINE void read_steps(const struct block *block, struct token *tokens, int32_t first, int32_t count)
{
#if defined(KIND_LINEAR)
    (void)first;
    const f32x16 decays = vector_decay(splat(((const float *)block->arguments[2])[block->head]));
    for (int32_t t = 0; t < count; t++) {
        tokens[t].decays[0] = tokens[t].decays[VECTORS - 1] = decays[0];
        tokens[t].values[0] = splat(1);
    }
#elif defined(KIND_MAMBA)
    const float *bias = (const float *)block->arguments[3] + HEADS + block->head;
    for (int32_t t = 0; t < count; t++)
        for (int v = 0; v < VECTORS; v++) {
            const int32_t lane = 16 * v, lanes = block->count - lane;
            const f32x16 own = load_lanes(row_of(block, 5, first + t, DT_STRIDE, DT_FIRST) + block->head + lane, lanes);
            tokens[t].decays[v] = vector_softplus(HAS_BIAS ? own + load_lanes(bias + lane, lanes) : own);
        }
#else
    const float *bias = (const float *)block->arguments[3] + HEADS + block->head;
    float own[16] = { 0 };
    for (int32_t t = 0; t < count; t++) own[t] = row_of(block, 5, first + t, DT_STRIDE, DT_FIRST)[block->head];
    const f32x16 steps = vector_softplus(HAS_BIAS ? load_f32(own) + bias[0] : load_f32(own));
    const f32x16 decays = vector_decay(steps * ((const float *)block->arguments[2])[block->head]);
    for (int32_t t = 0; t < count; t++) {
        tokens[t].decays[0] = tokens[t].decays[VECTORS - 1] = decays[t];
        tokens[t].values[0] = splat(steps[t]);
    }
#endif
}

/* The d of 16 lanes times what these bring. */
INLINE f32x16 added_of(const struct block *block, int32_t lane, int32_t count, f32x16 here)
{
#if defined(KIND_LINEAR)
    return splat(0);
#elif defined(KIND_MAMBA)
    return load_lanes((const float *)block->arguments[3] + block->head + lane, count) * here;
#else
    return ((const float *)block->arguments[3])[block->head] * here;
#endif
}
/* Reads tokens from `first` on. */
static void read_tokens(const struct block *block, struct token *tokens, int32_t first, int32_t count)
{
    const int32_t group = block->head / (HEADS / GROUPS);
    read_steps(block, tokens, first, count);
    for (int32_t t = 0; t < count; t++) {
        struct token *token = tokens + t;
        const float *x = row_of(block, 4, first + t, X_STRIDE, X_FIRST) + block->head * COLUMNS + block->column;
        token->key = row_of(block, B_INPUT, first + t, B_STRIDE, B_FIRST) + group * STATE;
        token->query = row_of(block, B_INPUT + 1, first + t, C_STRIDE, C_FIRST) + group * STATE;
#ifndef KIND_MAMBA
        const f32x16 step = token->values[0];
#endif
        for (int v = 0; v < VECTORS; v++) {
            const int32_t count = block->count - 16 * v, lane = 16 * v;
            const f32x16 here = load_lanes(x + lane, count);
#ifdef KIND_MAMBA
            const f32x16 step = token->decays[v];
#endif
            token->added[v] = added_of(block, lane, count, here);
            token->values[v] = step * here;
        }
    }
}

/* What a pass needs of its tokens, so that registers hold it. */
struct taken {
    const float *keys[AT_ONCE], *queries[AT_ONCE];
    f32x16 values[AT_ONCE][WIDE];
    decay_part decays[AT_ONCE][DECAY_PARTS];
    struct sums sums[AT_ONCE];
};
/* Row i decays, takes what the tokens write one after another, and gives its part of the output of each. */
INLINE void pass_row(const struct block *block, int first, struct taken *taken, int count, const char *from, char *to,
                     int i, int parity)
{
    for (int v = 0; v < WIDE; v++) {
        f32x16 row = load_f32(from + row_at(i, first + v));
        for (int t = 0; t < count; t++) {
            row = row * DECAY(taken->decays[t], i, first, v);
            row = vector_fma(splat(taken->keys[t][i]), taken->values[t][v], row);
            taken->sums[t].of[parity][v] = vector_fma(row, splat(taken->queries[t][i]), taken->sums[t].of[parity][v]);
        }
        store_f32(to + row_at(i, first + v), row);
    }
}
INLINE void pass_rows(const struct block *block, int first, const struct token *tokens, int count, const char *from,
                      char *to, int32_t at)
{
    struct taken taken;
    for (int t = 0; t < count; t++) {
        taken.keys[t] = tokens[t].key;
        taken.queries[t] = tokens[t].query;
        for (int v = 0; v < WIDE; v++) taken.values[t][v] = tokens[t].values[first + v];
        for (int v = 0; v < DECAY_PARTS; v++) taken.decays[t][v] = tokens[t].decays[first + v];
        clear(taken.sums + t);
    }
    for (int i = 0; i + 1 < STATE; i += 2) {
        pass_row(block, first, &taken, count, from, to, i, 0);
        pass_row(block, first, &taken, count, from, to, i + 1, 1);
    }
    if (STATE % 2) pass_row(block, first, &taken, count, from, to, STATE - 1, 0);
    for (int t = 0; t < count; t++)
        for (int v = 0; v < WIDE; v++) {
            const int lane = 16 * (first + v);
            const f32x16 out = sum_of(taken.sums + t, v) + tokens[t].added[first + v];
            store_lanes(out_of(block, at + t) + lane, out, block->count - lane);
        }
}

static void scan_tokens(struct block *block, const struct step *step, int32_t sequence, size_t offset)
{
    struct token tokens[READ_AHEAD];
    const int32_t end = step->sequence_starts[sequence + 1];
    const char *from = state_before(step, block->arguments[1], sequence, offset);
    open_block(block);
    if (!from) from = __builtin_memset(block->state, 0, sizeof block->state);
    for (int32_t t = step->sequence_starts[sequence], ready = t, begin = t; t < end;) {
        if (t == ready) {
            begin = t;
            ready = int_min(t + READ_AHEAD, end);
            read_tokens(block, tokens, t, ready - t);
        }
        int32_t count = 1;
        while (count < AT_ONCE && t + count < ready && step->state_to[t + count - 1] < 0) count++;
        if (count < AT_ONCE) count = 1;
        char *after = state_after(step, block->arguments[1], t + count - 1, offset);
        char *to = after ? after : (char *)block->state;
        for (int v = 0; v < VECTORS; v += WIDE)
            if (count == 1)
                pass_rows(block, v, tokens + t - begin, 1, from, to, t);
            else
                pass_rows(block, v, tokens + t - begin, AT_ONCE, from, to, t);
        from = to;
        t += count;
    }
}
