/* What a token brings to a block of scan.h of kinds delta and kda. */
#include "scan_block.h"

#ifdef KIND_KDA
#define DECAYS STATE
#define DECAY(i, v) token->decays[i]
#define KEY_HEAD(head) (head)
#else
#define DECAYS 1
#define DECAY(i, v) token->decays[0]
#define KEY_HEAD(head) (MODULO ? (head) % KEY_HEADS : (head) / (HEADS / KEY_HEADS))
#endif

struct token {
    float key[STATE], query[STATE], decays[DECAYS];
    float rate;
    f32x16 values[VECTORS], added[VECTORS];
};

static void open_block(struct block *block) { (void)block; }

/* x / sqrt(sum of squares + EPSILON) * scale, of a key or a query. */
INLINE void make_unit(const float *x, float scale, float *unit)
{
    f32x16 squares = splat(0);
    for (int i = 0; i < STATE; i += 16) {
        const f32x16 v = load_lanes(x + i, STATE - i);
        squares = vector_fma(v, v, squares);
    }
    const float factor = scale / __builtin_sqrtf(horizontal_sum(squares) + EPSILON);
    for (int i = 0; i < STATE; i++) unit[i] = x[i] * factor;
}

/* Decays and the rate at which the state takes what it has not got. */
INLINE void read_gates(const struct block *block, struct token *token, int32_t t)
{
    const int32_t head = block->head;
    const float a = ((const float *)block->arguments[2])[head];
    const float *bias = (const float *)block->arguments[3] + head * DECAYS;
#ifdef KIND_DELTA
    const float *beta =
        row_of(block, 5, t, GATES_STRIDE, GATES_FIRST) + head / GATE_HEADS * (2 * GATE_HEADS) + head % GATE_HEADS;
    const float *decay = beta + GATE_HEADS;
#else
    const float *beta = row_of(block, 6, t, BETA_STRIDE, BETA_FIRST) + head;
    const float *decay = row_of(block, 5, t, DECAY_STRIDE, DECAY_FIRST) + head * STATE;
#endif
    for (int i = 0; i < DECAYS; i += 16) {
        const f32x16 sum = load_lanes(decay + i, DECAYS - i) + load_lanes(bias + i, DECAYS - i);
        store_lanes(token->decays + i, vector_decay(a * vector_softplus(sum)), DECAYS - i);
    }
    const float rate = first_lane(1.0f / (1.0f + vector_exp(splat(-beta[0]))));
    token->rate = beta[0] == beta[0] ? rate : beta[0]; /* keeps NaN */
}

INLINE void recall_row(const struct block *block, const struct token *token, int i, f32x16 sums[VECTORS])
{
    for (int v = 0; v < VECTORS; v++)
        sums[v] = vector_fma(block->state[i][v] * DECAY(i, v), splat(token->key[i]), sums[v]);
}
/* What the state does not give for the key already, times the rate. */
INLINE void find_written(const struct block *block, struct token *token)
{
    f32x16 even[VECTORS], odd[VECTORS];
    for (int v = 0; v < VECTORS; v++) even[v] = odd[v] = splat(0);
    for (int i = 0; i + 1 < STATE; i += 2) {
        recall_row(block, token, i, even);
        recall_row(block, token, i + 1, odd);
    }
    if (STATE % 2) recall_row(block, token, STATE - 1, even);
    for (int v = 0; v < VECTORS; v++) token->values[v] = token->rate * (token->values[v] - (even[v] + odd[v]));
}

INLINE void read_token(const struct block *block, struct token *token, int32_t t)
{
    const float *queries = row_of(block, 4, t, QKV_STRIDE, QKV_FIRST), *keys = queries + KEY_HEADS * STATE;
    const float *values = keys + KEY_HEADS * STATE + block->head * COLUMNS + block->column;
    make_unit(keys + KEY_HEAD(block->head) * STATE, 1.0f, token->key);
    make_unit(queries + KEY_HEAD(block->head) * STATE, 1.0f / __builtin_sqrtf((float)STATE), token->query);
    read_gates(block, token, t);
    for (int v = 0; v < VECTORS; v++) {
        token->values[v] = load_lanes(values + 16 * v, block->count - 16 * v);
        token->added[v] = splat(0);
    }
    find_written(block, token);
}
