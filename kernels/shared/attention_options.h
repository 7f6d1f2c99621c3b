/* What a position sees, and what becomes of its scores: constants of attention.h that a model need not have.
 *
 * QUERY_STRIDE: elements of a row of queries, where keys and values of this layer do not follow them. WINDOW: a position
 * sees so many, itself the last; BOTH_WAYS, those at most half as many away. CHUNK: it sees those from the last
 * multiple of so many on. BOTH_WAYS: it sees those after it; all of a sequence are in the step then. SOFTCAP: a score s
 * becomes SOFTCAP * tanh(s / SOFTCAP). MAX_BIAS: of ALiBi. SINKS: there are some. SPANS, with BOTH_WAYS: a position p
 * sees those from the step's rope_positions[0, p] on that are before rope_positions[3, p], itself among them; neither
 * falls from one position to the next, and the step is one sequence from its first token on. SEES_AHEAD: where a step
 * has rope_positions, a token t sees the positions before rope_positions[3, t] too, of which all are in the step.
 */
#ifndef ROCMFORGE_ATTENTION_OPTIONS_H
#define ROCMFORGE_ATTENTION_OPTIONS_H

#ifndef QUERY_STRIDE
#define QUERY_STRIDE ((NUM_HEADS + NUM_KV_HEADS) * HEAD_DIM + (VALUES_IN_KEYS ? 0 : NUM_KV_HEADS * VALUE_DIM))
#endif
#ifndef WINDOW
#define WINDOW 0
#endif
#ifndef CHUNK
#define CHUNK 0
#endif
#ifndef BOTH_WAYS
#define BOTH_WAYS 0
#endif
#ifndef SOFTCAP
#define SOFTCAP 0.0f
#endif
#ifndef MAX_BIAS
#define MAX_BIAS 0.0f
#endif
#ifndef SINKS
#define SINKS 0
#endif
#ifndef SPANS
#define SPANS 0
#endif
#ifndef SEES_AHEAD
#define SEES_AHEAD 0
#endif
#define LIMITED (WINDOW || CHUNK || SPANS) /* the first positions may be out of sight */

INLINE int32_t first_seen(int32_t position)
{
    int32_t first = 0;
    if (WINDOW) first = BOTH_WAYS ? position - WINDOW / 2 : position - WINDOW + 1;
    if (CHUNK) first = position - position % (CHUNK ? CHUNK : 1);
    return first > 0 ? first : 0;
}

INLINE int32_t last_seen(int32_t position, int32_t length)
{
    if (!BOTH_WAYS) return position;
    return WINDOW ? int_min(length - 1, position + WINDOW / 2) : length - 1;
}

/* The natural logarithm of a head's slope, by which a score falls for each position in between. */
INLINE float slope_exponent(int32_t head)
{
    int32_t power = 1;
    while (2 * power <= NUM_HEADS) power *= 2;
    const float step = head < power ? (float)(head + 1) : (float)(head - power) + 0.5f;
    return -0.69314718f * MAX_BIAS * step / (float)power;
}
#endif
