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
INLINE void decay_rows(float state[ROWS], const own_numbers &own, const float decays[SHARE], int32_t part)
{
    float share[SHARE];
    UNROLL_FOR (int i = 0; i < SHARE; i++) share[i] = decay_of(own.a * float_softplus(decays[i] + own.bias[i]));
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

/* What a lane needs of a token, as it is in memory. */
struct raw_token {
    float key[ROWS], query[ROWS], value, beta;
#ifdef KIND_KDA
    float decays[SHARE];
#else
    float alpha;
#endif
};
INLINE raw_token load_token(lane_place place, const void *const inputs[4], int32_t t)
{
    const int32_t key_head = KEY_HEAD(place.head);
    const GLOBAL_MEMORY float *queries = row_of(inputs[0], t, QKV_STRIDE, QKV_FIRST);
    const GLOBAL_MEMORY float *keys = queries + KEY_HEADS * STATE, *values = keys + KEY_HEADS * STATE;
    raw_token raw;
    load_rows(raw.key, keys + key_head * STATE, place.part);
    load_rows(raw.query, queries + key_head * STATE, place.part);
    raw.value = values[place.column];
#ifdef KIND_DELTA
    const GLOBAL_MEMORY float *beta = row_of(inputs[1], t, GATES_STRIDE, GATES_FIRST) +
                                      place.head / GATE_HEADS * (2 * GATE_HEADS) + place.head % GATE_HEADS;
    raw.alpha = beta[GATE_HEADS];
#else
    const GLOBAL_MEMORY float *beta = row_of(inputs[2], t, BETA_STRIDE, BETA_FIRST) + place.head;
    const GLOBAL_MEMORY float *decays = row_of(inputs[1], t, DECAY_STRIDE, DECAY_FIRST) + place.head * STATE;
    UNROLL_FOR (int i = 0; i < SHARE; i++) raw.decays[i] = load_share(decays, i, place.part);
#endif
    raw.beta = beta[0];
    return raw;
}

/* x / sqrt(sum of squares + EPSILON) * scale, of a key or a query. */
INLINE void make_unit(float unit[ROWS], const float x[ROWS], float scale)
{
    float squares = 0;
    UNROLL_FOR (int r = 0; r < ROWS; r++) squares = float_fma(x[r], x[r], squares);
    const float factor = scale / float_sqrt(sum_of_parts(squares) + EPSILON);
    UNROLL_FOR (int r = 0; r < ROWS; r++) unit[r] = x[r] * factor;
}
/* The state decays for a token. */
INLINE token_rows take_token(const raw_token &raw, float state[ROWS], const own_numbers &own, lane_place place)
{
    token_rows token;
#ifdef KIND_DELTA
    const float decay = decay_of(own.a * float_softplus(raw.alpha + own.bias));
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay;
#else
    decay_rows(state, own, raw.decays, place.part);
#endif
    make_unit(token.key, raw.key, 1.0f);
    make_unit(token.query, raw.query, 1.0f / float_sqrt((float)STATE));
    token.value = raw.value;
    token.rate = sigmoid(raw.beta);
    token.added = 0;
    return token;
}
INLINE float written_by(const token_rows &token, const float state[ROWS])
{
    float kept = 0;
    UNROLL_FOR (int r = 0; r < ROWS; r++) kept = float_fma(state[r], token.key[r], kept);
    return token.rate * (token.value - sum_of_parts(kept));
}
