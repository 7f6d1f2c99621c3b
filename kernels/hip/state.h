/* Slots of recurrent state, and what its decays are made of. Constant: STATE_BYTES, of a slot.
 *
 * A sequence's tokens of a step go on from the slot that state_from names, or from zeros; after a token whose state_to
 * names a slot, that takes the state. No slot is read that the same step writes.
 */
#ifndef ROCMFORGE_STATE_H
#define ROCMFORGE_STATE_H
#include "prelude.h"

/* What a sequence goes on from; null: zeros. */
INLINE const GLOBAL_MEMORY float *state_before(step_pointer step, const void *states, int32_t sequence)
{
    const int32_t slot = step->state_from[sequence];
    return slot < 0 ? nullptr : (const GLOBAL_MEMORY float *)states + (size_t)slot * (STATE_BYTES / 4);
}
/* Where the state after a token is put; null: nowhere. */
INLINE GLOBAL_MEMORY float *state_after(step_pointer step, void *states, int32_t token)
{
    const int32_t slot = step->state_to[token];
    return slot < 0 ? nullptr : (GLOBAL_MEMORY float *)states + (size_t)slot * (STATE_BYTES / 4);
}
/* The sequence that a token is of: the last that begins with it or before. */
INLINE int32_t sequence_of(step_pointer step, int32_t token)
{
    int32_t low = 0, high = step->num_sequences;
    while (high - low > 1) {
        const int32_t middle = (low + high) / 2;
        if (step->sequence_starts[middle] <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* e^x of what is not above 88; 0 below -87, so that a state fades out. Keeps NaN. */
INLINE float decay_of(float x) { return x == x ? (x < -87.0f ? 0.0f : float_exp(x)) : x; }
INLINE float sigmoid(float x) { return x == x ? 1.0f / (1.0f + float_exp(-x)) : x; }
#endif
