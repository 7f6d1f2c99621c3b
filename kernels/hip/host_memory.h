/* Pinned host memory that the host may have written just now.
 *
 * It is read by vector loads of system scope, which ask no cache of this GPU. Scalar loads would: their cache may hold
 * what lay there before a replayed graph began. What is copied to the GPU's own memory is what the kernels after this
 * one read.
 */
#ifndef ROCMFORGE_HOST_MEMORY_H
#define ROCMFORGE_HOST_MEMORY_H
#include "prelude.h"

#define HOST_LOADS 4 /* of a thread in flight */

template <class Word> INLINE Word load_host(const GLOBAL_MEMORY Word *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

/* By a whole workgroup of `threads`. */
template <class Word>
INLINE void copy_from_host(GLOBAL_MEMORY Word *goal, const GLOBAL_MEMORY Word *source, int32_t count,
                           const int32_t threads)
{
    for (int32_t first = thread_index(); first < count; first += HOST_LOADS * threads) {
        Word words[HOST_LOADS];
        UNROLL_FOR (int n = 0; n < HOST_LOADS; n++)
            words[n] = load_host(source + int_min(first + n * threads, count - 1));
        UNROLL_FOR (int n = 0; n < HOST_LOADS; n++)
            if (first + n * threads < count) goal[first + n * threads] = words[n];
    }
}
#endif
