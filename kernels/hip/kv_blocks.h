/* Blocks of the KV cache: 16 positions of every kv head. What lies where in one head of a block.
 *
 * Constants: HEAD_DIM, VALUE_DIM (elements of a value; as many as HEAD_DIM where it is not given), KV_Q8_0 (needs both
 * to be multiples of 32), VALUES_IN_KEYS (a value is the first elements of its key). A head is filled up to KEY_WIDTH and VALUE_WIDTH elements, multiples of 8, with zeros.
 * float16: keys [KEY_WIDTH / 8, 16 positions, 8], values [16 positions, VALUE_WIDTH].
 * q8_0: int8 in the same order, and behind it float16 scales [elements / 32, 16 positions]. As in a GGUF, 32
 * neighbouring elements of a head share one: element = scale * int8, which float32 holds exactly.
 */
#ifndef ROCMFORGE_KV_BLOCKS_H
#define ROCMFORGE_KV_BLOCKS_H
#include "prelude.h"

#ifndef VALUE_DIM
#define VALUE_DIM HEAD_DIM
#endif
#ifndef VALUES_IN_KEYS
#define VALUES_IN_KEYS 0
#endif
#define KEY_WIDTH ((HEAD_DIM + 7) / 8 * 8)
#define VALUE_WIDTH ((VALUE_DIM + 7) / 8 * 8)
#define KEY_ELEMENTS (KEY_WIDTH * 16) /* of one head */
#define VALUE_ELEMENTS (VALUES_IN_KEYS ? KEY_ELEMENTS : VALUE_WIDTH * 16)
#if KV_Q8_0
typedef int8_t kv_element;
typedef i32x2 kv_eight; /* 8 elements as they are stored, and as they are read */
typedef f32x8 read_eight;
#define KEY_SIZE (KEY_ELEMENTS + KEY_WIDTH) /* of one head, with its scales, counted in elements */
#define VALUE_SIZE (VALUE_ELEMENTS + VALUE_ELEMENTS / 16)
#define KV_SCALE(scales, index) ((float)(scales)[index])
#else
typedef _Float16 kv_element;
typedef i32x4 kv_eight;
typedef f16x8 read_eight;
#define KEY_SIZE KEY_ELEMENTS
#define VALUE_SIZE VALUE_ELEMENTS
#define KV_SCALE(scales, index) 1.0f
#endif
/* Where 8 elements of a value are, at a position of a block. */
#define VALUE_AT(eighth, position)                                                                                     \
    (VALUES_IN_KEYS ? (eighth) * 128 + (position) * 8 : (position) * VALUE_WIDTH + (eighth) * 8)
static_assert(!KV_Q8_0 || (HEAD_DIM % 32 == 0 && VALUE_DIM % 32 == 0), "32 elements of a head share a scale");

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
