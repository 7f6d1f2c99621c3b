/* What a token brings to a block of scan.h of kinds mamba and mamba2. */
#include "scan_block.h"

struct token {
    const float *key, *query;
    f32x16 values[VECTORS], added[VECTORS];
#ifdef KIND_MAMBA
    f32x16 steps[VECTORS];
#else
    float decay;
#endif
};

#ifdef KIND_MAMBA
#define DECAY(i, v) vector_decay(token->steps[v] * block->a[i][v])
#else
#define DECAY(i, v) token->decay
#endif

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

/* The steps of 16 lanes, which are so many heads of mamba, or columns of one of mamba2. */
INLINE f32x16 steps_of(const float *dt, const float *bias, int32_t count)
{
#ifdef KIND_MAMBA
    const f32x16 own = load_lanes(dt, count);
    return vector_softplus(HAS_BIAS ? own + load_lanes(bias, count) : own);
#else
    (void)count;
    return vector_softplus(splat(HAS_BIAS ? dt[0] + bias[0] : dt[0]));
#endif
}

INLINE void read_token(const struct block *block, struct token *token, int32_t t)
{
    const int32_t head = block->head, group = head / (HEADS / GROUPS);
    const float *d = (const float *)block->arguments[3] + head, *bias = d + HEADS;
    const float *x = row_of(block, 4, t, X_STRIDE, X_FIRST) + head * COLUMNS + block->column;
    const float *dt = row_of(block, 5, t, DT_STRIDE, DT_FIRST) + head;
    token->key = row_of(block, 6, t, B_STRIDE, B_FIRST) + group * STATE;
    token->query = row_of(block, 7, t, C_STRIDE, C_FIRST) + group * STATE;
    for (int v = 0; v < VECTORS; v++) {
        const int32_t count = block->count - 16 * v, lane = 16 * v;
        const f32x16 here = load_lanes(x + lane, count);
#ifdef KIND_MAMBA
        const f32x16 step = token->steps[v] = steps_of(dt + lane, bias + lane, count);
        token->added[v] = load_lanes(d + lane, count) * here;
#else
        const f32x16 step = steps_of(dt, bias, count);
        token->decay = first_lane(vector_decay(step * ((const float *)block->arguments[2])[head]));
        token->added[v] = d[0] * here;
#endif
        token->values[v] = step * here;
    }
}
