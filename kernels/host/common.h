/* What every host kernel sees: fixed-width types, the step, the kernel record, float16.
 *
 * Freestanding: no libc header. Whatever a compiler calls by itself (memcpy, memset) or the thread
 * pool needs (pthread_create, syscall) is resolved from the process that loads the shared object.
 */
#ifndef ROCMFORGE_COMMON_H
#define ROCMFORGE_COMMON_H

#include <stddef.h>
#include <stdint.h>

#include "abi.h" /* the step; made of artifacts/abi.py */

/* A kernel: `items` says how many independent work items a step has, `run` does those of [begin, end). */
struct kernel {
    int32_t (*items)(const struct step *step);
    void (*run)(const struct step *step, void *const *arguments, int32_t begin, int32_t end);
};

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline, unused))

/* Rows of what a kernel makes: of all tokens; or where AT_OUTPUT_ROWS is set, as in what follows the last keys and values,
 * of those of which outputs are read, each where it lies among all tokens'; or of those of which logits are asked, packed.
 */
#ifndef AT_OUTPUT_ROWS
#define AT_OUTPUT_ROWS 0
#endif
#define CHOSEN_ROWS(step) (AT_OUTPUT_ROWS && (step)->output_rows)
#define OUTPUT_COUNT(step) (CHOSEN_ROWS(step) ? (step)->num_outputs : (step)->num_tokens)
#define COUNT(step) (AT_LOGITS_ROWS ? (step)->num_logits : OUTPUT_COUNT(step))

/* Which row is made as the i-th of them. */
INLINE int32_t made_row(const struct step *step, int32_t i) { return CHOSEN_ROWS(step) ? step->output_rows[i] : i; }

/* How many of all `count` lie one behind another from the i-th on. */
INLINE int32_t neighbours_at(const struct step *step, int32_t i, int32_t count)
{
    int32_t end = CHOSEN_ROWS(step) ? i + 1 : count;
    while (end < count && step->output_rows[end] == step->output_rows[end - 1] + 1) end++;
    return end - i;
}

/* 32 activations as int8: value = unit * 2^shifts[half] * quant, halves of 16. That is nearly as good as a scale for each
 * half, and spares a product of floats, for sums of products are shifted as integers (docs/performance.md). Sums spare the
 * kernels of weights with an offset or a minimum a second pass. */
struct q8_block {
    float unit;
    int32_t shifts[2]; /* 0 to MAX_SHIFT; one of them is 0 */
    int32_t sums[2]; /* of a half's quants, times -128 */
    float scaled_sum; /* of what all quants stand for */
    int8_t quants[32];
};

/* 256 activations as int8, of rows that are a multiple of as many: value = unit * 2^shifts[i] * quant, of the i-th 16 of
 * them. That is a little less exact, and spares a product of floats for each 32 (docs/performance.md). */
struct q8_superblock {
    float unit;
    int16_t part_twos[16], block_fours[8]; /* sums of what 16 quants stand for in two units, of 32 in four, rounded */
    struct q8_part {
        int32_t shifts[2]; /* 0 to SUPER_SHIFT, which that of the largest has */
        int32_t sums[2]; /* of 16 quants, times -128 */
        float sum; /* of what all 32 stand for, in units */
        int8_t quants[32];
    } blocks[8]; /* one behind the other, as processors read ahead */
};
/* A sum of 32 products of at most 128 * 127, so much higher, is below 2^24, and exact as a float. */
#define SUPER_SHIFT 5
#define MAX_SHIFT 11 /* a block's sum fits 32 bits: 32 products of at most 128 * 127, 11 bits higher, are below 2^30 */

INLINE int32_t int_min(int32_t a, int32_t b) { return a < b ? a : b; }

#endif
