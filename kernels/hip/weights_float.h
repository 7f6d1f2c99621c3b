/* Packings of float weights, "lanes32": rows in tiles of 32, [columns / PIECE][32 lanes][16 bytes], the last piece filled up
 * with zeros. Activations stay float32, and have no more columns than there are. */
#include "prelude.h"

#define PIECE (16 / ELEMENT_BYTES) /* columns of 16 bytes */
#define ROW_PIECES ((COLUMNS + PIECE - 1) / PIECE)
#define TILE_BYTES (ROW_PIECES * 512)
#define UNIT_PIECES (64 / PIECE)

typedef const GLOBAL_MEMORY uint8_t *weight_pointer;

/* The first piece of the row in `lane`; `base` is the same for all lanes (load_block of weights_quantized.h). */
INLINE i32x4 load_piece(weight_pointer base, uint32_t origin, uint32_t lane)
{
    return *(const GLOBAL_MEMORY i32x4 *)(base + (origin + lane * 16));
}

INLINE void unpack_piece(i32x4 raw, float w[PIECE])
{
    UNROLL_FOR (int i = 0; i < PIECE; i++) {
#if defined(WEIGHT_F32)
        w[i] = from_bits(raw[i]);
#elif defined(WEIGHT_F16)
        w[i] = (float)as_halves(raw)[i];
#elif defined(WEIGHT_BF16)
        w[i] = from_bits(i % 2 ? raw[i / 2] & (int32_t)0xffff0000 : raw[i / 2] << 16);
#endif
    }
}

/* embedding.h: as in weights_quantized.h. */
#define ROW_ITEMS ROW_PIECES
#define ITEM_COLUMNS PIECE

INLINE void dequantize_item(weight_pointer tile, int32_t lane, int32_t item, float out[PIECE])
{
    unpack_piece(load_piece(tile, (uint32_t)item * 512, (uint32_t)lane), out);
}
