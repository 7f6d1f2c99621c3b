/* Tells the host which step was computed: read as every kernel reads the step, by the last kernel of a graph.
 *
 * Arguments: uint64[1] in pinned host memory. Grid: one workgroup.
 */
#include "prelude.h"

#define THREADS 64

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    if (thread_index() == 0) __atomic_store_n((GLOBAL_MEMORY uint64_t *)a0, STEP->number, __ATOMIC_RELAXED);
}
