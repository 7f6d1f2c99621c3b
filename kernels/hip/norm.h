/* out[i] = x[row(i)] * weight / sqrt(mean(x^2) + EPSILON), as int8 blocks or float32.
 *
 * Constants: COLUMNS, THREADS, EPSILON, OUT_Q8, AT_LOGITS_ROWS (1: only the rows of which logits are asked, packed).
 * Arguments: x float32[T, COLUMNS], weight float32[COLUMNS], out. Grid: x 1, y rows.
 */
#include "prelude.h"
#define WAVES (THREADS / WAVE_SIZE)

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ float partial[WAVES];
    const int32_t i = group_y();
    if (i >= COUNT(STEP)) return;
    const int32_t row = AT_LOGITS_ROWS ? STEP->logits_rows[i] : i;
    const GLOBAL_MEMORY float *x = (const GLOBAL_MEMORY float *)a0 + (size_t)row * COLUMNS;
    const GLOBAL_MEMORY float *weight = (const GLOBAL_MEMORY float *)a1;
    float squares = 0;
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) squares = float_fma(x[c], x[c], squares);
    squares = wave_sum(squares);
    if (lane_index() == 0) partial[wave_index()] = squares;
    __syncthreads();
    float sum = 0;
    UNROLL_FOR (int w = 0; w < WAVES; w++) sum += partial[w];
    const float inverse = 1.0f / __builtin_sqrtf(sum / COLUMNS + EPSILON);
    for (int32_t c = thread_index(); c < COLUMNS; c += THREADS) {
        const float value = x[c] * inverse * weight[c];
        if (OUT_Q8)
            quantize_lane(value, (GLOBAL_MEMORY struct q8_block *)a2 + (size_t)i * (COLUMNS / 32) + c / 32);
        else
            ((GLOBAL_MEMORY float *)a2)[(size_t)i * COLUMNS + c] = value;
    }
}
