/* The packing of a matrix, by the macros of its format's row in artifacts/formats.py. */
#include "vector.h"

/* The products of a tile with a number of tokens as a function of its own, for compilers share registers out anew; and in a
 * switch over how many there are, its call. */
#define FORM_OF(n)                                                                                                     \
    APART void multiply_##n(const uint8_t *tile, const activations *x, f32x16 *sums) { multiply_few(tile, x, n, sums); }
#define CASE_OF(n)                                                                                                     \
    case n:                                                                                                            \
        multiply_##n(tile, x, sums);                                                                                   \
        return

#ifdef QUANT_BITS
#include "weights_quantized.h"
#else
#include "weights_float.h"
#endif

/* How many of `left` tokens are multiplied by a tile at once. Of more than fit once 8, whose sums stay in registers. */
INLINE int32_t tokens_at_once(int32_t left)
{
    if (HAS_PANELS && left >= PANEL_TOKENS) return int_min(TILE_TOKENS, left) / PANEL_TOKENS * PANEL_TOKENS;
    return left > TILE_TOKENS ? 8 : left;
}

/* How many of `left` tokens are multiplied by two tiles at once; 0: a tile alone is as fast. */
INLINE int32_t paired_tokens(int32_t left)
{
    if (!PAIRED_TILES || left < LEAST_PAIR_TOKENS || !PAIRS_PAY) return 0;
    return int_min(PAIR_TOKENS, left) / PAIR_UNIT * PAIR_UNIT;
}
#define MOST_TOKENS (PAIRED_TILES && PAIR_TOKENS > TILE_TOKENS ? PAIR_TOKENS : TILE_TOKENS)
