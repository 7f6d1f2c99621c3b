/* What products with weights whose blocks have scales of their own are made of: a sum grows by a block at a time. Part of
 * weights_quantized.h.
 */

/* A token's row, as products are made with it. */
typedef struct q8_block activations;
#define ROW_ACTIVATIONS (COLUMNS / 32)
#define SUMMED_BLOCKS ROW_ACTIVATIONS /* before they are added to a row's sum: all, each is */
#define SPAN_ACTIVATIONS SPAN_BLOCKS /* of SPAN_BLOCKS blocks */

typedef f32x16 partial; /* what is summed within a span */
struct span_scales {
    char none;
};

INLINE struct activation_block block_of(const activations *x, int b)
{
    return (struct activation_block){ x[b].quants, x[b].shifts, x[b].sums };
}
INLINE void unpack_weights(const uint8_t *tile, int block, u8x64 w[8], struct block_scales *s, const int alone)
{
    unpack_block(tile, block, w, s, LIFT_OF(alone));
}
INLINE void unpack_minima(const uint8_t *tile, int block, struct span_scales *s) { (void)tile, (void)block, (void)s; }
INLINE void unpack_span(const uint8_t *tile, int block, struct span_scales *s) { (void)tile, (void)block, (void)s; }

/* Args: dots: of a block's halves, shifted. x, b: the token's span, and which of its blocks it is. */
INLINE partial add_products(partial sum, const i32x16 dots[2], const struct block_scales *s, const activations *x,
                            int b, const int alone)
{
    f32x16 in_units;
    (void)alone;
    if (NUM_SCALES == 2)
        in_units = vector_fma(to_f32(dots[1]), s->scale[1], to_f32(dots[0]) * s->scale[0]);
    else
        in_units = to_f32(dots[0] + dots[1]) * s->scale[0];
    sum = vector_fma(in_units, splat(x[b].unit), sum);
    return HAS_MINIMUM ? vector_fma(s->minimum[0], splat(x[b].scaled_sum), sum) : sum;
}
INLINE partial begin_span(f32x16 sum) { return sum; }
INLINE f32x16 end_span(partial part, f32x16 sum, const struct span_scales *s, const activations *x)
{
    (void)sum, (void)s, (void)x;
    return part;
}
