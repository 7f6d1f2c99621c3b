/* An adapter of one of the matrices whose products lie side by side: a row of the table that both halves of an adapter's
 * product read, as compiler/ops/lora_segments.py has it.
 */
#ifndef ROCMFORGE_LORA_SEGMENT_H
#define ROCMFORGE_LORA_SEGMENT_H

struct lora_segment {
    int32_t adapter;
    int32_t first_rank, ranks; /* rows of A */
    int32_t first_column, columns; /* of the output */
    int32_t first_b; /* element of B, [ranks, columns] */
};
#endif
