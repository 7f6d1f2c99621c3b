/* What a token brings to a lane of scan.h of kinds delta and kda. */
#include "scan_rows.h"

#ifdef KIND_KDA
#define KEY_HEAD(head) (head)
/* Lanes of a wave that hold the same rows, of columns of one head: of their decays each makes some. */
#if COLUMNS % (WAVE_SIZE / PARTS) == 0
#define SHARERS (WAVE_SIZE / PARTS)
#else
#define SHARERS 1
#endif
#define SHARE ((ROWS + SHARERS - 1) / SHARERS)
#else
#define KEY_HEAD(head) (MODULO ? (head) % KEY_HEADS : (head) / (HEADS / KEY_HEADS))
#endif

struct own_numbers {
    float a;
#ifdef KIND_KDA
    float bias[SHARE];
#else
    float bias;
#endif
};

#ifdef KIND_KDA
/* Of a head's rows the i-th of the lane's share. */
INLINE float load_share(const GLOBAL_MEMORY float *p, int i, int32_t part)
{
    const int32_t r = i * SHARERS + (SHARERS > 1 ? lane_index() / PARTS : 0), row = row_at(r, part);
    return r < ROWS && row < STATE ? p[row] : 0.0f;
}
/* The state decays, each row at its own rate. */
INLINE void decay_rows(float state[ROWS], const own_numbers &own, const GLOBAL_MEMORY float *decays, int32_t part)
{
    float share[SHARE];
    UNROLL_FOR (int i = 0; i < SHARE; i++)
        share[i] = decay_of(own.a * float_softplus(load_share(decays, i, part) + own.bias[i]));
    UNROLL_FOR (int r = 0; r < ROWS; r++)
        state[r] *= SHARERS > 1 ? from_lane(share[r / SHARERS], r % SHARERS * PARTS + part) : share[r];
}
#endif

INLINE own_numbers numbers_of(lane_place place, const GLOBAL_MEMORY float *a, const GLOBAL_MEMORY float *bias)
{
    own_numbers own;
    own.a = a[place.head];
#ifdef KIND_KDA
    UNROLL_FOR (int i = 0; i < SHARE; i++) own.bias[i] = load_share(bias + place.head * STATE, i, place.part);
#else
    own.bias = bias[place.head];
#endif
    return own;
}

/* x / sqrt(sum of squares + EPSILON) * scale, of a key or a query. */
INLINE void load_unit(float values[ROWS], const GLOBAL_MEMORY float *p, int32_t part, float scale)
{
    load_rows(values, p, part);
    float squares = 0;
    UNROLL_FOR (int r = 0; r < ROWS; r++) squares = float_fma(values[r], values[r], squares);
    const float factor = scale / __builtin_sqrtf(sum_of_parts(squares) + EPSILON);
    UNROLL_FOR (int r = 0; r < ROWS; r++) values[r] *= factor;
}

INLINE void read_token(token_rows &token, float state[ROWS], const own_numbers &own, lane_place place,
                       const void *const inputs[4], int32_t t)
{
    const int32_t key_head = KEY_HEAD(place.head);
    const GLOBAL_MEMORY float *queries = row_of(inputs[0], t, QKV_STRIDE, QKV_FIRST);
    const GLOBAL_MEMORY float *keys = queries + KEY_HEADS * STATE, *values = keys + KEY_HEADS * STATE;
#ifdef KIND_DELTA
    const GLOBAL_MEMORY float *beta = row_of(inputs[1], t, GATES_STRIDE, GATES_FIRST) +
                                      place.head / GATE_HEADS * (2 * GATE_HEADS) + place.head % GATE_HEADS;
    const float decay = decay_of(own.a * float_softplus(beta[GATE_HEADS] + own.bias));
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay;
#else
    const GLOBAL_MEMORY float *beta = row_of(inputs[2], t, BETA_STRIDE, BETA_FIRST) + place.head;
    decay_rows(state, own, row_of(inputs[1], t, DECAY_STRIDE, DECAY_FIRST) + place.head * STATE, place.part);
#endif
    load_unit(token.key, keys + key_head * STATE, place.part, 1.0f);
    load_unit(token.query, queries + key_head * STATE, place.part, 1.0f / __builtin_sqrtf((float)STATE));
    float kept = 0;
    UNROLL_FOR (int r = 0; r < ROWS; r++) kept = float_fma(state[r], token.key[r], kept);
    token.value = sigmoid(beta[0]) * (values[place.column] - sum_of_parts(kept));
    token.added = 0;
}
