/* A sum over the threads of a workgroup. Constants: THREADS, WAVE_SIZE. */
#ifndef ROCMFORGE_GROUP_SUM_H
#define ROCMFORGE_GROUP_SUM_H
#include "prelude.h"
#define WAVES (THREADS / WAVE_SIZE)

/* The sum over the workgroup of what each thread brings, in one order; each sum has a `partial` of its own. */
INLINE float sum_of_threads(float x, float partial[WAVES])
{
    x = wave_sum(x);
    if (lane_index() == 0) partial[wave_index()] = x;
    __syncthreads();
    float sum = 0;
    UNROLL_FOR (int w = 0; w < WAVES; w++) sum += partial[w];
    return sum;
}
#endif
