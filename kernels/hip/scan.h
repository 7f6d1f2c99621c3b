/* Matrices of state over the tokens of sequences: compiler/ops/scan.py, which has the formulas.
 *
 * Constants: KIND_MAMBA, KIND_MAMBA2, KIND_LINEAR, KIND_DELTA or KIND_KDA, HEADS, STATE (rows of a matrix), COLUMNS
 * (of a matrix), PARTS (lanes that share a column, 4 to 16), THREADS, WAVE_SIZE, STATE_BYTES, and for each input its
 * columns and the one that it begins with. Of mamba and mamba2: X_STRIDE, X_FIRST, DT_STRIDE, DT_FIRST, B_STRIDE,
 * B_FIRST, C_STRIDE, C_FIRST, GROUPS, HAS_BIAS; of linear all but those of DT. Of delta: QKV_STRIDE, QKV_FIRST,
 * GATES_STRIDE, GATES_FIRST, GATE_HEADS, KEY_HEADS, MODULO (1: of the mapping; 0: block), EPSILON. Of kda: QKV_STRIDE,
 * QKV_FIRST, DECAY_STRIDE, DECAY_FIRST, BETA_STRIDE, BETA_FIRST, KEY_HEADS, EPSILON.
 * Arguments: out float32[T, HEADS, COLUMNS], states, a float32[HEADS], of mamba [HEADS, STATE], numbers float32 (of mamba
 * and mamba2 d [HEADS], then the bias where there is one; else the bias), then the inputs, float32[T, their stride].
 * A slot: float32[HEADS, COLUMNS, STATE]. A column's state stays in the registers of PARTS neighbouring lanes, each with
 * every PARTS-th four rows; sums go over a lane's rows in turn, then over the lanes. Grid: x = HEADS * COLUMNS * PARTS /
 * THREADS, y sequences.
 */
#include "scan_rows.h"
#if defined(KIND_MAMBA) || defined(KIND_MAMBA2) || defined(KIND_LINEAR)
#include "scan_mamba.h"
#elif defined(KIND_DELTA) || defined(KIND_KDA)
#include "scan_delta.h"
#else
#error "expected KIND_MAMBA, KIND_MAMBA2, KIND_LINEAR, KIND_DELTA or KIND_KDA"
#endif

/* 1: a token is loaded while the one before it is computed; kda has no registers left for it. */
#ifdef KIND_KDA
#define AHEAD 0
#else
#define AHEAD 1
#endif

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t sequence = group_y(), at = group_x() * THREADS + thread_index();
    const int32_t column = at / PARTS, part = at % PARTS;
    if (sequence >= STEP->num_sequences || column >= HEADS * COLUMNS) return;
    const void *inputs[4] = { a4, a5, a6, a7 };
    const lane_place place = { column / COLUMNS, column, part };
    const own_numbers own = numbers_of(place, (const GLOBAL_MEMORY float *)a2, (const GLOBAL_MEMORY float *)a3);
    const GLOBAL_MEMORY float *before = state_before(STEP, a1, sequence);
    float state[ROWS] = {};
    if (before) load_rows(state, before + (size_t)column * STATE, part);
    const int32_t begin = STEP->sequence_starts[sequence], end = STEP->sequence_starts[sequence + 1];
    if (begin == end) return;
    raw_token raw = {};
    if (AHEAD) raw = load_token(place, inputs, begin);
    for (int32_t t = begin; t < end; t++) {
        if (!AHEAD) raw = load_token(place, inputs, t);
        const token_rows token = take_token(raw, state, own, place);
        if (AHEAD) raw = load_token(place, inputs, int_min(t + 1, end - 1));
        const float written = written_by(token, state);
        float sum = 0;
        UNROLL_FOR (int r = 0; r < ROWS; r++) {
            state[r] = float_fma(token.key[r], written, state[r]);
            sum = float_fma(state[r], token.query[r], sum);
        }
        sum = sum_of_parts(sum) + token.added;
        if (part == 0) ((GLOBAL_MEMORY float *)a0)[(size_t)t * (HEADS * COLUMNS) + column] = sum;
        GLOBAL_MEMORY float *after = state_after(STEP, a1, t);
        if (after) store_rows(after + (size_t)column * STATE, state, part);
    }
}
