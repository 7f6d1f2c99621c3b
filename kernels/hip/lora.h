/* What both halves of an adapter's product share: the scales of a row.
 *
 * Constants: ADAPTERS (of the bundle), NUM_SEGMENTS, RANKS (of all of them), AT_LOGITS_ROWS (1: rows are those of which
 * logits are asked).
 */
#ifndef ROCMFORGE_LORA_H
#define ROCMFORGE_LORA_H
#include "prelude.h"

#include "lora_segment.h"

/* Of the sequence that a row belongs to: [ADAPTERS]; null where no sequence of the step has any. */
INLINE const CONSTANT_MEMORY float *adapter_scales(step_pointer step, int32_t row)
{
    const CONSTANT_MEMORY float *scales = step->adapter_scales;
    const int32_t token = AT_LOGITS_ROWS ? step->logits_rows[row] : row;
    return scales ? scales + (size_t)step->rows[token] * ADAPTERS : scales;
}
#endif
