/* out[t] = activation(sum over j of weight[c, j] * x[t + j - (TAPS - 1), c] + bias[c]) * gate: compiler/ops/short_conv.py.
 *
 * Constants: CHANNELS, TAPS, STRIDE (columns of x), FIRST (column that x begins with), HAS_BIAS, ACTIVATION_SILU or
 * ACTIVATION_NONE, STATE_BYTES; where there are such TIMES_FIRST (of what x is multiplied with) and GATE_FIRST.
 * Arguments: x float32[T, STRIDE], weight float32[CHANNELS, TAPS], out float32[T, CHANNELS], states, bias
 * float32[CHANNELS].
 * A slot: float32[TAPS - 1, CHANNELS], the last x of the sequence, oldest first. The sum begins with the bias, or 0, and
 * goes from the oldest on. A work item is 64 channels of one sequence.
 */
#include "state.h"
#include "activation.h"

#define VECTORS 4 /* of channels in an item */
#define BLOCK (16 * VECTORS)
#define BLOCKS ((CHANNELS + BLOCK - 1) / BLOCK)

static int32_t short_conv_items(const struct step *step) { return step->num_sequences * BLOCKS; }

struct window {
    f32x16 taps[VECTORS][TAPS], past[VECTORS][TAPS - 1], bias[VECTORS];
};

static void open_window(struct window *window, const float *weight, const float *bias, const float *past, int32_t first)
{
    for (int v = 0; v < VECTORS && first + 16 * v < CHANNELS; v++) {
        const int32_t c = first + 16 * v, count = CHANNELS - c;
        for (int j = 0; j < TAPS; j++) {
            float lanes[16] = { 0 };
            for (int32_t i = 0; i < int_min(count, 16); i++) lanes[i] = weight[(c + i) * TAPS + j];
            window->taps[v][j] = load_f32(lanes);
        }
        for (int j = 0; j < TAPS - 1; j++)
            window->past[v][j] = past ? load_lanes(past + j * CHANNELS + c, count) : splat(0);
        window->bias[v] = HAS_BIAS ? load_lanes(bias + c, count) : splat(0);
    }
}

/* 16 channels of a token, from c on. */
INLINE void convolve(struct window *window, int v, const float *x, float *out, int32_t c)
{
    const int32_t count = CHANNELS - c;
    f32x16 *past = window->past[v], sum = window->bias[v], now = load_lanes(x + FIRST + c, count);
#ifdef TIMES_FIRST
    now *= load_lanes(x + TIMES_FIRST + c, count);
#endif
    for (int j = 0; j < TAPS - 1; j++) sum = vector_fma(window->taps[v][j], past[j], sum);
    sum = activation(vector_fma(window->taps[v][TAPS - 1], now, sum));
#ifdef GATE_FIRST
    sum *= load_lanes(x + GATE_FIRST + c, count);
#endif
    store_lanes(out + c, sum, count);
    for (int j = 0; j + 1 < TAPS - 1; j++) past[j] = past[j + 1];
    past[TAPS - 2] = now;
}

static void short_conv_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t item = begin; item < end; item++) {
        const int32_t sequence = item / BLOCKS, first = item % BLOCKS * BLOCK;
        struct window window;
        open_window(&window, arguments[1], arguments[4],
                    (const float *)(const void *)state_before(step, arguments[3], sequence, 0), first);
        for (int32_t t = step->sequence_starts[sequence]; t < step->sequence_starts[sequence + 1]; t++) {
            float *after = (float *)(void *)state_after(step, arguments[3], t, 0);
            for (int v = 0; v < VECTORS && first + 16 * v < CHANNELS; v++) {
                const int32_t c = first + 16 * v;
                convolve(&window, v, (const float *)arguments[0] + (size_t)t * STRIDE,
                         (float *)arguments[2] + (size_t)t * CHANNELS, c);
                for (int j = 0; after && j < TAPS - 1; j++)
                    store_lanes(after + j * CHANNELS + c, window.past[v][j], CHANNELS - c);
            }
        }
    }
}
EXPORT const struct kernel SYMBOL = { short_conv_items, short_conv_run };
