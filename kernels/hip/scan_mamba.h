/* What a token brings to a lane of scan.h of kinds mamba, mamba2 and linear. */
#include "scan_rows.h"

/* Which of the inputs b is; c is behind it. */
#ifdef KIND_LINEAR
#define B_INPUT 1
#else
#define B_INPUT 2
#endif

struct own_numbers {
#ifdef KIND_MAMBA
    float a[ROWS];
#else
    float a;
#endif
    float d, bias;
};

INLINE own_numbers numbers_of(lane_place place, const GLOBAL_MEMORY float *a, const GLOBAL_MEMORY float *numbers)
{
    own_numbers own;
#ifdef KIND_MAMBA
    load_rows(own.a, a + (size_t)place.head * STATE, place.part);
#else
    own.a = a[place.head];
#endif
#ifdef KIND_LINEAR
    own.d = own.bias = 0;
#else
    own.d = numbers[place.head];
    own.bias = HAS_BIAS ? numbers[HEADS + place.head] : 0.0f;
#endif
    return own;
}

/* What a lane needs of a token, as it is in memory. */
struct raw_token {
    float key[ROWS], query[ROWS], x, dt;
};
INLINE raw_token load_token(lane_place place, const void *const inputs[4], int32_t t)
{
    const int32_t group = place.head / (HEADS / GROUPS);
    raw_token raw;
    load_rows(raw.key, row_of(inputs[B_INPUT], t, B_STRIDE, B_FIRST) + group * STATE, place.part);
    load_rows(raw.query, row_of(inputs[B_INPUT + 1], t, C_STRIDE, C_FIRST) + group * STATE, place.part);
    raw.x = row_of(inputs[0], t, X_STRIDE, X_FIRST)[place.column];
#ifdef KIND_LINEAR
    raw.dt = 0;
#else
    raw.dt = row_of(inputs[1], t, DT_STRIDE, DT_FIRST)[place.head];
#endif
    return raw;
}

/* The state decays for a token. */
INLINE token_rows take_token(const raw_token &raw, float state[ROWS], const own_numbers &own, lane_place place)
{
    token_rows token;
#ifdef KIND_LINEAR
    const float step = 1;
#else
    const float step = float_softplus(HAS_BIAS ? raw.dt + own.bias : raw.dt);
#endif
#ifdef KIND_MAMBA
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay_of(step * own.a[r]);
#else
    const float decay = decay_of(step * own.a);
    UNROLL_FOR (int r = 0; r < ROWS; r++) state[r] *= decay;
#endif
    UNROLL_FOR (int r = 0; r < ROWS; r++) {
        token.key[r] = raw.key[r];
        token.query[r] = raw.query[r];
    }
    token.value = step * raw.x;
    token.rate = 1;
#ifdef KIND_LINEAR
    token.added = 0;
#else
    token.added = own.d * raw.x;
#endif
    return token;
}
INLINE float written_by(const token_rows &token, const float state[ROWS]) { return token.value; }
