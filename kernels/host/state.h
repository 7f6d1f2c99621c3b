/* Slots of recurrent state, and what its decays are made of. Constant: STATE_BYTES, of a slot.
 *
 * A sequence's tokens of a step go on from the slot that state_from names, or from zeros; after a token whose state_to
 * names a slot, that takes the state. No slot is read that the same step writes.
 */
#ifndef ROCMFORGE_STATE_H
#define ROCMFORGE_STATE_H
#include "vector.h"

/* What a sequence goes on from, `offset` bytes into its slot; null: zeros. */
INLINE const char *state_before(const struct step *step, const void *states, int32_t sequence, size_t offset)
{
    const int32_t slot = step->state_from[sequence];
    return slot < 0 ? 0 : (const char *)states + (size_t)slot * STATE_BYTES + offset;
}
/* Where the state after a token is put; null: nowhere. */
INLINE char *state_after(const struct step *step, void *states, int32_t token, size_t offset)
{
    const int32_t slot = step->state_to[token];
    return slot < 0 ? 0 : (char *)states + (size_t)slot * STATE_BYTES + offset;
}

/* Lanes [0, count) of 16 from `x` on, the others 0. */
INLINE f32x16 load_lanes(const float *x, int32_t count)
{
    if (count >= 16) return load_f32(x);
    float some[16] = { 0 };
    for (int32_t i = 0; i < count; i++) some[i] = x[i];
    return load_f32(some);
}
INLINE void store_lanes(float *out, f32x16 v, int32_t count)
{
    if (count >= 16) {
        store_f32(out, v);
        return;
    }
    for (int32_t i = 0; i < count; i++) out[i] = v[i];
}

/* log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; log(1 + u) = 2 artanh(s), s = u / (2 + u), at most 1/3, by its
 * series, whose next term is below 2^-28 of it. Keeps NaN. */
INLINE f32x16 vector_softplus(f32x16 x)
{
    const f32x16 u = vector_exp(-vector_abs(x)), s = u / (2.0f + u), square = s * s;
    f32x16 p = splat(1.0f / 15);
    p = vector_fma(p, square, splat(1.0f / 13));
    p = vector_fma(p, square, splat(1.0f / 11));
    p = vector_fma(p, square, splat(1.0f / 9));
    p = vector_fma(p, square, splat(1.0f / 7));
    p = vector_fma(p, square, splat(1.0f / 5));
    p = vector_fma(p, square, splat(1.0f / 3));
    p = vector_fma(p, square, splat(1.0f));
    return vector_fma(2.0f * s, p, vector_select(x < splat(0), splat(0), x));
}
/* e^x of what is not above 88; 0 below -87, so that a state fades out. Keeps NaN. */
INLINE f32x16 vector_decay(f32x16 x)
{
    const f32x16 e = vector_select(x < splat(-87.0f), splat(0), vector_exp(x));
    return vector_select(x == x, e, x);
}
#endif
