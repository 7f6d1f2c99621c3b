/* What a token brings to a lane of scan.h of kinds delta and kda. */
#include "scan_rows.h"

#ifdef KIND_KDA
#define KEY_HEAD(head) (head)
#else
#define KEY_HEAD(head) (MODULO ? (head) % KEY_HEADS : (head) / (HEADS / KEY_HEADS))
#endif

struct own_numbers {
    float a;
#ifdef KIND_KDA
    float bias[ROWS];
#else
    float bias;
#endif
};

INLINE own_numbers numbers_of(lane_place place, const GLOBAL_MEMORY float *a, const GLOBAL_MEMORY float *bias)
{
    own_numbers own;
    own.a = a[place.head];
#ifdef KIND_KDA
    load_rows(own.bias, bias + place.head * STATE, place.part);
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
    const float decay = decay_of(own.a * softplus(beta[GATE_HEADS] + own.bias));
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay;
#else
    const GLOBAL_MEMORY float *beta = row_of(inputs[2], t, BETA_STRIDE, BETA_FIRST) + place.head;
    float decays[ROWS];
    load_rows(decays, row_of(inputs[1], t, DECAY_STRIDE, DECAY_FIRST) + place.head * STATE, place.part);
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay_of(own.a * softplus(decays[r] + own.bias[r]));
#endif
    load_unit(token.key, keys + key_head * STATE, place.part, 1.0f);
    load_unit(token.query, queries + key_head * STATE, place.part, 1.0f / __builtin_sqrtf((float)STATE));
    float kept = 0;
    UNROLL_FOR (int r = 0; r < ROWS; r++) kept = float_fma(state[r], token.key[r], kept);
    token.value = sigmoid(beta[0]) * (values[place.column] - sum_of_parts(kept));
    token.added = 0;
}
