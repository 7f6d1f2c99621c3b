/* Blocks of the KV cache: 16 positions of every kv head. What lies where in one head of a block.
 *
 * Constants: HEAD_DIM, KV_Q8_0 (needs HEAD_DIM a multiple of 32).
 * float16: keys [HEAD_DIM / 8, 16 positions, 8], values [16 positions, HEAD_DIM].
 * q8_0: int8 in the same order, and behind it float16 scales [HEAD_DIM / 32, 16 positions]. As in a GGUF, 32
 * neighbouring elements of a head share one: element = scale * int8, which float32 holds exactly.
 */
#ifndef ROCMFORGE_KV_BLOCKS_H
#define ROCMFORGE_KV_BLOCKS_H
#include "prelude.h"

#define KV_HEAD_ELEMENTS (HEAD_DIM * 16) /* of one head */
#if KV_Q8_0
typedef int8_t kv_element;
typedef i32x2 kv_eight; /* 8 elements as they are stored, and as they are read */
typedef f32x8 read_eight;
#define KV_HEAD_SIZE (KV_HEAD_ELEMENTS + HEAD_DIM) /* of one head, with its scales, counted in elements */
#define KV_SCALE(scales, index) ((float)(scales)[index])
#else
typedef _Float16 kv_element;
typedef i32x4 kv_eight;
typedef f16x8 read_eight;
#define KV_HEAD_SIZE KV_HEAD_ELEMENTS
#define KV_SCALE(scales, index) 1.0f
#endif
static_assert(!KV_Q8_0 || HEAD_DIM % 32 == 0, "32 elements of a head share a scale");

typedef const GLOBAL_MEMORY kv_element *kv_pointer;
typedef const GLOBAL_MEMORY _Float16 *scale_pointer;

INLINE read_eight dequantized(kv_eight stored, float scale)
{
#if KV_Q8_0
    read_eight eight;
    UNROLL_FOR (int i = 0; i < 8; i++) eight[i] = (float)(int8_t)(stored[i / 4] >> (8 * (i % 4))) * scale;
    return eight;
#else
    return as_halves(stored);
#endif
}
#endif
