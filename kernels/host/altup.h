/* out[t] = sums over the residual streams of a token: see compiler/ops/altup.py.
 *
 * Constants: STREAMS, STREAM_COLUMNS, KIND_PREDICT, KIND_CORRECT or KIND_SPREAD.
 * Arguments: out float32[T, STREAMS, STREAM_COLUMNS], x of the same, then what the kind has: coefficients
 * float32[T, STREAMS, STREAMS]; or y float32[T, STREAM_COLUMNS] and coefficients float32[T, STREAMS]; or y.
 * A work item is one row.
 */
#include "vector.h"

static int32_t altup_items(const struct step *step) { return step->num_tokens; }

static void altup_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        float *out = (float *)arguments[0] + (size_t)t * (STREAMS * STREAM_COLUMNS);
        const float *x = (const float *)arguments[1] + (size_t)t * (STREAMS * STREAM_COLUMNS);
#ifdef KIND_PREDICT
        const float *coefficients = (const float *)arguments[2] + (size_t)t * (STREAMS * STREAMS);
#else
        const float *y = (const float *)arguments[2] + (size_t)t * STREAM_COLUMNS;
#endif
#ifdef KIND_CORRECT
        const float *coefficients = (const float *)arguments[3] + (size_t)t * STREAMS;
#endif
        for (int32_t i = 0; i < STREAMS; i++)
            for (int32_t c = 0; c < STREAM_COLUMNS; c++) {
                float sum = x[i * STREAM_COLUMNS + c];
#if defined(KIND_PREDICT)
                for (int32_t j = 0; j < STREAMS; j++) sum += coefficients[i * STREAMS + j] * x[j * STREAM_COLUMNS + c];
#elif defined(KIND_CORRECT)
                sum += (1.0f + coefficients[i]) * (y[c] - x[c]);
#elif defined(KIND_SPREAD)
                if (i > 0) sum += y[c];
#else
#error "expected a KIND"
#endif
                out[i * STREAM_COLUMNS + c] = sum;
            }
    }
}
EXPORT const struct kernel SYMBOL = { altup_items, altup_run };
