/* The step from the host, as the first kernel of a graph or a step: all but masks, which sample.h fetches.
 *
 * Arguments: the pinned image of the step and of what it points to. Grid: one workgroup.
 */
#include "host_memory.h"

#define THREADS 1024

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    const int32_t n_bytes = load_host(&((const GLOBAL_MEMORY struct step *)a0)->n_bytes);
    copy_from_host((GLOBAL_MEMORY uint64_t *)const_cast<void *>(step_argument), (const GLOBAL_MEMORY uint64_t *)a0,
                   n_bytes / 8, THREADS);
}
