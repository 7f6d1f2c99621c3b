/* out[t] = activation(gate[t]) * up[t], for weights whose types keep gate and up apart.
 *
 * Constants: COLUMNS, ACTIVATION_<NAME>; where there are such LIMIT (of gate, and of up both ways) and UP_OFFSET (added
 * to up), AT_OUTPUT_ROWS where rows are those of which outputs are read. Arguments: x float32[T, 2 * COLUMNS] (gate, then
 * up), out float32[T, COLUMNS]. A work item is one row.
 */
#include "activation.h"

#ifdef UP_OFFSET
#define offset(x) ((x) + UP_OFFSET)
#else
#define offset(x) (x)
#endif
#ifdef LIMIT
INLINE f32x16 at_most(f32x16 x)
{
    for (int i = 0; i < 16; i++) x[i] = x[i] > LIMIT ? LIMIT : x[i];
    return x;
}
INLINE float within(float x) { return x > LIMIT ? LIMIT : x < -LIMIT ? -LIMIT : x; }
#else
#define at_most(x) (x)
#define within(x) (x)
#endif

static int32_t gate_items(const struct step *step) { return OUTPUT_COUNT(step); }

static void gate_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    for (int32_t i = begin; i < end; i++) {
        const int32_t t = made_row(step, i);
        const float *gate = (const float *)arguments[0] + (size_t)t * 2 * COLUMNS, *up = gate + COLUMNS;
        float *out = (float *)arguments[1] + (size_t)t * COLUMNS;
        for (int32_t c = 0; c < COLUMNS; c += 16) {
            float g[16] = { 0 };
            const int32_t valid = int_min(16, COLUMNS - c);
            for (int32_t r = 0; r < valid; r++) g[r] = gate[c + r];
            const f32x16 s = activation(at_most(load_f32(g)));
            for (int32_t r = 0; r < valid; r++) out[c + r] = s[r] * offset(within(up[c + r]));
        }
    }
}
EXPORT const struct kernel SYMBOL = { gate_items, gate_run };
