/* What every host kernel sees: fixed-width types, the step, the kernel record, float16.
 *
 * Freestanding: no libc header. Whatever a compiler calls by itself (memcpy, memset) or the thread
 * pool needs (pthread_create, syscall) is resolved from the process that loads the shared object.
 */
#ifndef ROCMFORGE_COMMON_H
#define ROCMFORGE_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* How one row of logits is turned into a token. Mirrors runtime/host_device.py. */
struct sampling {
    float temperature; /* 0: the most likely token */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    int32_t top_k;     /* 0: off */
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    int32_t num_seen;           /* distinct tokens of prompt and output */
    const int32_t *seen_tokens; /* [num_seen] */
    const int32_t *seen_counts; /* [num_seen] occurrences in the output alone */
    uint64_t seed;
    uint64_t counter; /* index of the token within its request: one draw a token */
    const uint32_t *mask; /* bit i % 32 of word i / 32: token i is allowed; null: all are */
    float typical_p;      /* 1: off */
    int32_t num_biases;
    const int32_t *bias_tokens; /* [num_biases], distinct */
    const float *biases;        /* [num_biases] added to their logits */
    float *originals; /* [num_seen + num_biases] scratch, to leave the logits as they were; null: as adjusted */
};

/* One step over a batch. Mirrors runtime/host_device.py. T tokens, S sequences, R rows of logits. */
struct step {
    int32_t num_tokens;         /* T */
    int32_t num_logits;         /* R */
    int32_t blocks_per_row;     /* P, the row stride of block_table */
    int32_t reserved;
    const int32_t *token_ids;   /* [T] */
    const int32_t *positions;   /* [T] position within its sequence */
    const int32_t *rows;        /* [T] row of block_table */
    const int32_t *block_table; /* [S, P] physical block numbers */
    const int32_t *logits_rows; /* [R] indices of tokens */
    const struct sampling *sampling; /* [R] */
    int32_t *sampled;           /* [R], out */
};

/* A kernel: `items` says how many independent work items a step has, `run` does those of [begin, end). */
struct kernel {
    int32_t (*items)(const struct step *step);
    void (*run)(const struct step *step, void *const *arguments, int32_t begin, int32_t end);
};

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* 32 activations as int8: value = scales[half] * quant. A scale for each 16 costs a little arithmetic and
 * brings the model closer to its float32 self than one for 32 (docs/performance.md). Sums spare the kernels of
 * weights with an offset or a minimum a second pass. */
struct q8_block {
    float scales[2];  /* of quants 0..15 and 16..31 */
    int32_t sums[2];  /* of quants 0..15 and 16..31 */
    float scaled_sum; /* scales[0] * sums[0] + scales[1] * sums[1] */
    int8_t quants[32];
};

ALWAYS_INLINE int32_t minimum_int(int32_t a, int32_t b) { return a < b ? a : b; }

#endif
