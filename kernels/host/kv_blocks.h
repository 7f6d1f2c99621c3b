/* Blocks of the KV cache: 16 positions of every kv head. What lies where in one head of a block, and how it is read
 * and written.
 *
 * Constants: HEAD_DIM, VALUE_DIM (elements of a value; as many as HEAD_DIM where it is not given), KV_Q8_0 (needs both
 * to be multiples of 32), VALUES_IN_KEYS (a value is the first elements of its key). A head is filled up to KEY_WIDTH and VALUE_WIDTH elements, multiples of 16, with zeros.
 * float16: keys [KEY_WIDTH, 16 positions], or with their values in them [16 positions, KEY_WIDTH]; values [16 positions,
 * VALUE_WIDTH].
 * q8_0: int8 in the same order, and behind it float16 scales [elements / 32, 16 positions]. As in a GGUF, 32
 * neighbouring elements of a head share one: element = scale * int8, which float32 holds exactly.
 */
#ifndef ROCMFORGE_KV_BLOCKS_H
#define ROCMFORGE_KV_BLOCKS_H
#include "vector.h"

#ifndef VALUE_DIM
#define VALUE_DIM HEAD_DIM
#endif
#ifndef VALUES_IN_KEYS
#define VALUES_IN_KEYS 0
#endif
#define KEY_WIDTH ((HEAD_DIM + 15) / 16 * 16)
#define VALUE_WIDTH ((VALUE_DIM + 15) / 16 * 16)
#define KEY_ELEMENTS (KEY_WIDTH * 16) /* of one head; of Q8_0 its scales are behind them */
#define VALUE_STRIDE (VALUES_IN_KEYS ? KEY_WIDTH : VALUE_WIDTH) /* from one position to the next */
#define VALUE_ELEMENTS (VALUE_STRIDE * 16)
#define KV_ELEMENT (KV_Q8_0 ? 1 : 2) /* bytes */
#define KEY_BYTES (KV_Q8_0 ? KEY_ELEMENTS + KEY_WIDTH : 2 * KEY_ELEMENTS)
#define VALUE_BYTES (KV_Q8_0 ? VALUE_ELEMENTS + VALUE_STRIDE : 2 * VALUE_ELEMENTS)
#define KEY_BLOCK_BYTES ((size_t)NUM_KV_HEADS * KEY_BYTES)
#define VALUE_BLOCK_BYTES ((size_t)NUM_KV_HEADS * VALUE_BYTES)

/* Scales of elements d .. d+31 of the keys at all 16 positions; nothing where keys have none. */
INLINE f32x16 load_key_scales(const uint8_t *head, int32_t d)
{
    return KV_Q8_0 ? load_f16(head + KEY_ELEMENTS + d) : splat(0);
}

/* Element d of the keys at all 16 positions. */
INLINE f32x16 load_keys(const uint8_t *head, int32_t d, f32x16 scales)
{
    if (!KV_Q8_0) return load_f16(head + d * 32);
    return to_f32(load_i8(head + d * 16)) * scales;
}

/* Scales of elements d .. d+15 of the values at all 16 positions; nothing where values have none. */
INLINE void load_scales(const uint8_t *head, int32_t d, float scales[16])
{
    if (KV_Q8_0) store_f32(scales, load_f16(head + VALUE_ELEMENTS + d / 32 * 32));
}

/* Elements d .. d+15 of the value at a position, or of the key that holds it. */
INLINE f32x16 load_value(const uint8_t *head, int32_t position, int32_t d, const float scales[16])
{
    if (!KV_Q8_0) return load_f16(head + (position * VALUE_STRIDE + d) * 2);
    return to_f32(load_i8(head + position * VALUE_STRIDE + d)) * splat(scales[position]);
}

/* Nearest integers, ties away from zero, for |v| < 2^31. */
INLINE i32x16 round_away(f32x16 v)
{
    const i32x16 whole = __builtin_convertvector(v, i32x16);
    const f32x16 rest = v - to_f32(whole); /* exact */
    return whole - (rest >= splat(0.5f)) + (rest <= splat(-0.5f)); /* a comparison that holds is -1 */
}

/* 32 floats as GGUF's Q8_0 has them; returns the bits of the float16 scale. What is not finite makes the scale so.
 * The reciprocal of a subnormal scale may be no number; float16 has 0 for such a scale, so the quants may be 0 too. */
INLINE uint16_t quantize_q8_0(const float *x, int8_t quants[32])
{
    const f32x16 first = load_f32(x), second = load_f32(x + 16);
    float largest[16] = { horizontal_max_abs(first), horizontal_max_abs(second) };
    largest[0] = horizontal_max_abs(load_f32(largest));
    const float scale = largest[0] / 127.0f, inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
    const i8x16 low = __builtin_convertvector(round_away(first * inverse), i8x16);
    const i8x16 high = __builtin_convertvector(round_away(second * inverse), i8x16);
    uint16_t half[16];
    __builtin_memcpy(quants, &low, 16);
    __builtin_memcpy(quants + 16, &high, 16);
    store_f16(half, splat(scale));
    return half[0];
}

/* `count` elements at a position, neighbours. */
INLINE void store_row(uint8_t *head, int32_t position, const float *x, int32_t count)
{
    if (KV_Q8_0) {
        for (int32_t d = 0; d < count; d += 32) {
            const uint16_t scale = quantize_q8_0(x + d, (int8_t *)head + position * VALUE_STRIDE + d);
            __builtin_memcpy(head + VALUE_ELEMENTS + (d / 32 * 16 + position) * 2, &scale, 2);
        }
        return;
    }
    for (int32_t d = 0; d < count; d += 16) store_f16(head + (position * VALUE_STRIDE + d) * 2, load_some(x, d, count));
}

INLINE void store_value(uint8_t *head, int32_t position, const float *value)
{
    store_row(head, position, value, VALUE_DIM);
}

INLINE void store_key(uint8_t *head, int32_t position, const float *key)
{
    if (VALUES_IN_KEYS) {
        store_row(head, position, key, HEAD_DIM);
        return;
    }
    if (KV_Q8_0) {
        for (int32_t d = 0; d < HEAD_DIM; d += 32) {
            int8_t quants[32];
            const uint16_t scale = quantize_q8_0(key + d, quants);
            __builtin_memcpy(head + KEY_ELEMENTS + (d / 32 * 16 + position) * 2, &scale, 2);
            for (int32_t i = 0; i < 32; i++) head[(d + i) * 16 + position] = (uint8_t)quants[i];
        }
        return;
    }
    for (int32_t d = 0; d < HEAD_DIM; d += 16) {
        uint16_t half[16];
        store_f16(half, load_some(key, d, HEAD_DIM));
        for (int32_t i = 0; i < 16; i++) __builtin_memcpy(head + ((d + i) * 16 + position) * 2, half + i, 2);
    }
}
#endif
