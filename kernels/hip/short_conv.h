/* out[t] = activation(sum over j of weight[c, j] * x[t + j - (TAPS - 1), c] + bias[c]) * gate: compiler/ops/short_conv.py.
 *
 * Constants: COLUMNS (channels), THREADS, TAPS, STRIDE (columns of x), FIRST (column that x begins with), HAS_BIAS,
 * ACTIVATION_SILU or ACTIVATION_NONE, STATE_BYTES; where there are such TIMES_FIRST (of what x is multiplied with) and
 * GATE_FIRST.
 * Arguments: x float32[T, STRIDE], weight float32[COLUMNS, TAPS], out float32[T, COLUMNS], states, bias float32[COLUMNS].
 * A slot: float32[TAPS - 1, COLUMNS], the last x of the sequence, oldest first. The sum begins with the bias, or 0, and
 * goes from the oldest on. Grid: x = COLUMNS / THREADS, y tokens.
 */
#include "state.h"
#include "activation.h"

/* x of a token, in channel c. */
INLINE float taken(const GLOBAL_MEMORY float *x, int32_t token, int32_t c)
{
    const GLOBAL_MEMORY float *row = x + (size_t)token * STRIDE + c;
#ifdef TIMES_FIRST
    return row[FIRST] * row[TIMES_FIRST];
#else
    return row[FIRST];
#endif
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t token = group_y(), c = group_x() * THREADS + thread_index();
    if (token >= STEP->num_tokens || c >= COLUMNS) return;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0;
    const GLOBAL_MEMORY float *weight = (const GLOBAL_MEMORY float *)a1 + c * TAPS;
    const int32_t sequence = sequence_of(STEP, token), ago = token - STEP->sequence_starts[sequence];
    const GLOBAL_MEMORY float *before = state_before(STEP, a3, sequence);
    GLOBAL_MEMORY float *after = state_after(STEP, a3, token);
    float sum = HAS_BIAS ? ((const GLOBAL_MEMORY float *)a4)[c] : 0.0f;
    UNROLL_FOR (int j = 0; j < TAPS; j++) {
        const int32_t back = TAPS - 1 - j;
        float value = 0;
        if (back <= ago)
            value = taken(x, token - back, c);
        else if (before)
            value = before[(TAPS - 1 + ago - back) * COLUMNS + c];
        sum = float_fma(weight[j], value, sum);
        if (after && j > 0) after[(j - 1) * COLUMNS + c] = value;
    }
    sum = activation(sum);
#ifdef GATE_FIRST
    sum *= x[(size_t)token * STRIDE + GATE_FIRST + c];
#endif
    ((GLOBAL_MEMORY float *)a2)[(size_t)token * COLUMNS + c] = sum;
}
