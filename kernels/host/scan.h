/* Matrices of state over the tokens of sequences: compiler/ops/scan.py, which has the formulas.
 *
 * Constants: KIND_MAMBA, KIND_MAMBA2, KIND_LINEAR, KIND_DELTA or KIND_KDA, HEADS, STATE (rows of a matrix), COLUMNS
 * (of a matrix), STATE_BYTES, and for each input its columns and the one that it begins with. Of mamba and mamba2:
 * X_STRIDE, X_FIRST, DT_STRIDE, DT_FIRST, B_STRIDE, B_FIRST, C_STRIDE, C_FIRST, GROUPS, HAS_BIAS; of linear all but
 * those of DT. Of delta: QKV_STRIDE, QKV_FIRST, GATES_STRIDE, GATES_FIRST, GATE_HEADS, KEY_HEADS, MODULO (1: of the
 * mapping; 0: block), EPSILON. Of kda: QKV_STRIDE, QKV_FIRST, DECAY_STRIDE, DECAY_FIRST, BETA_STRIDE, BETA_FIRST,
 * KEY_HEADS, EPSILON.
 * Arguments: out float32[T, HEADS, COLUMNS], states, a float32[HEADS], of mamba [HEADS, STATE], numbers float32 (of mamba
 * and mamba2 d [HEADS], then the bias where there is one; else the bias), then the inputs, float32[T, their stride].
 * A slot: float32[blocks, STATE, LANES]. A block is LANES columns of a head, the last ones of a head or of mamba, whose
 * heads of one column stand side by side, filled up with zeros. Sums over a matrix's rows: those of even and of odd
 * rows, then both. A work item is one block of one sequence.
 */
#if defined(KIND_MAMBA) || defined(KIND_MAMBA2) || defined(KIND_LINEAR)
#include "scan_mamba.h"
#elif defined(KIND_DELTA) || defined(KIND_KDA)
#include "scan_delta.h"
#else
#error "expected KIND_MAMBA, KIND_MAMBA2, KIND_LINEAR, KIND_DELTA or KIND_KDA"
#endif

#ifdef KIND_MAMBA
#define BLOCKS ((HEADS + LANES - 1) / LANES)
#else
#define BLOCKS_OF_HEAD ((COLUMNS + LANES - 1) / LANES)
#define BLOCKS (HEADS * BLOCKS_OF_HEAD)
#endif

static int32_t scan_items(const struct step *step) { return step->num_sequences * BLOCKS; }

static void scan_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    struct block block;
    block.arguments = arguments;
    for (int32_t item = begin; item < end; item++) {
        const int32_t at = item % BLOCKS;
#ifdef KIND_MAMBA
        block.head = at * LANES;
        block.column = 0;
        block.count = int_min(LANES, HEADS - block.head);
#else
        block.head = at / BLOCKS_OF_HEAD;
        block.column = at % BLOCKS_OF_HEAD * LANES;
        block.count = int_min(LANES, COLUMNS - block.column);
#endif
        scan_tokens(&block, step, item / BLOCKS, (size_t)at * sizeof block.state);
    }
}
EXPORT const struct kernel SYMBOL = { scan_items, scan_run };
