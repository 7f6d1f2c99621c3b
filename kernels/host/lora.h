/* What both halves of an adapter's product share: the scales of a row.
 *
 * Constants: ADAPTERS (of the bundle), NUM_SEGMENTS, RANKS (of all of them), AT_LOGITS_ROWS (1: rows are those of which
 * logits are asked).
 */
#ifndef ROCMFORGE_LORA_H
#define ROCMFORGE_LORA_H
#include "vector.h"

#include "lora_segment.h"

/* Of the sequence that a row belongs to: [ADAPTERS]. */
INLINE const float *adapter_scales(const struct step *step, int32_t row)
{
    const int32_t token = AT_LOGITS_ROWS ? step->logits_rows[row] : row;
    return step->adapter_scales + (size_t)step->rows[token] * ADAPTERS;
}
#endif
