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

/* e^x of what is not above 88; 0 below -87, so that a state fades out. Keeps NaN. */
INLINE f32x16 vector_decay(f32x16 x)
{
    const f32x16 e = vector_select(x < splat(-87.0f), splat(0), vector_exp(x));
    return vector_select(x == x, e, x);
}
#endif
