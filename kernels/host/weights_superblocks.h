/* What products with rows of superblocks are made of: what 256 columns come to is summed by itself, in units of the
 * activations, which have one for as many, and then added to the sum of a row. Part of weights_quantized.h.
 */

/* A token's row, as products are made with it. */
typedef struct q8_superblock activations;
#define ROW_ACTIVATIONS (COLUMNS / 256)
#define SUMMED_BLOCKS SPAN_BLOCKS /* before they are added to a row's sum */
#define SPAN_ACTIVATIONS 1 /* of SPAN_BLOCKS blocks */

/* What is summed within a span, a superblock. Where quants times scales are bytes, as Q2_K's are, that is integers. */
#if QUANTS_SCALED
typedef i32x16 partial;
#else
typedef f32x16 partial;
#endif

/* Minima of superblocks are of 6 bits at most, and are multiplied two at once: of neighbouring blocks, or of a block's
 * halves. */
#define HAS_MINIMUM_PAIRS (HAS_MINIMUM && SUPER_SCALE_BYTES)
#define MINIMUM_PAIRS (4 * NUM_MINIMA)
struct span_scales {
    f32x16 scale, of_minima; /* of_minima: negative, for sums in two or four units */
    i32x16 minima[MINIMUM_PAIRS];
};

INLINE struct activation_block block_of(const activations *x, int b)
{
    return (struct activation_block){ x->blocks[b].quants, x->blocks[b].shifts, x->blocks[b].sums };
}

#if QUANTS_SCALED
/* Weights without the superblock's scale and minimum: a quant of 2 bits times the scale of its 16 columns fits a byte. A
 * row's four products are the bytes of its lane; a look-up stays within 16 bytes, which are those of four rows. For one
 * token alone it takes less to multiply its sums: `s` has the scales then, as integers. */
INLINE void unpack_weights(const uint8_t *tile, int block, u8x64 w[8], struct block_scales *s, const int alone)
{
    const i32x16 lanes = { 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3 };
    const u8x64 rows = (u8x64)(lanes * 0x04040404);
    const uint8_t *p = tile + block_offset(block);
    unpack_second(p + 16 * SCALE_BYTES, w);
    for (int half = 0; half < 2; half++) {
        const i32x16 scales = load_u8(p + 16 * half) & 15;
        const u8x64 products = (u8x64)(scales * 0x03020100);
        s->scale[half] = (f32x16)scales;
        for (int v = 4 * half; v < 4 * half + 4 && !alone; v++) w[v] = look_up_rows(products, w[v] | rows);
    }
}
#else
INLINE void unpack_weights(const uint8_t *tile, int block, u8x64 w[8], struct block_scales *s, const int alone)
{
    unpack_block(tile, block, w, s, LIFT_OF(alone));
}
#endif

/* With a block of weights its minima, for the end of the span. */
INLINE void unpack_minima(const uint8_t *tile, int block, struct span_scales *s)
{
    const uint8_t *p = tile + block_offset(block);
    const int b = block & 7;
    if (!HAS_MINIMUM_PAIRS) return;
    if (NUM_MINIMA == 2)
        s->minima[b] = (load_u8(p) >> 4) | (load_u8(p + 16) >> 4) << 16;
    else
        s->minima[b / 2] = b % 2 ? s->minima[b / 2] | load_u8(p + 16) << 16 : load_u8(p + 16);
}

/* Args: block: the first of a superblock. */
INLINE void unpack_span(const uint8_t *tile, int block, struct span_scales *s)
{
    const uint8_t *super = tile + (size_t)(block >> 3) * SPAN_BYTES;
    if (QUANTS_SCALED) s->scale = load_f16(super);
    if (HAS_MINIMUM_PAIRS) s->of_minima = (NUM_MINIMA == 2 ? -2 : -4) * load_f16(super + 32);
}

/* Args: dots: of a block's halves, shifted. x, b: the token's span, and which of its blocks it is. */
INLINE partial add_products(partial sum, const i32x16 dots[2], const struct block_scales *s, const activations *x,
                            int b, const int alone)
{
    (void)x, (void)b, (void)alone;
#if QUANTS_SCALED
    if (alone) return sum + dots[0] * (i32x16)s->scale[0] + dots[1] * (i32x16)s->scale[1];
    return sum + dots[0] + dots[1];
#else
    if (NUM_SCALES == 2)
        sum = vector_fma(to_f32(dots[1]), s->scale[1], vector_fma(to_f32(dots[0]), s->scale[0], sum));
    else
        sum = vector_fma(to_f32(dots[0] + dots[1]), s->scale[0], sum);
    return HAS_MINIMUM && !HAS_MINIMUM_PAIRS ? vector_fma(s->minimum[0], splat(x->blocks[b].sum), sum) : sum;
#endif
}
INLINE partial begin_span(f32x16 sum)
{
    (void)sum;
    return (partial){ 0 };
}
INLINE f32x16 end_span(partial part, f32x16 sum, const struct span_scales *s, const activations *x)
{
#if QUANTS_SCALED
    f32x16 in_units = to_f32(part) * s->scale;
#else
    f32x16 in_units = part;
#endif
    if (HAS_MINIMUM_PAIRS) {
        const int16_t *sums = NUM_MINIMA == 2 ? x->part_twos : x->block_fours;
        i32x16 taken = splat_int(0);
        for (int i = 0; i < MINIMUM_PAIRS; i++) taken = dot_of_two(taken, s->minima[i], sums + 2 * i);
        in_units = vector_fma(to_f32(taken), s->of_minima, in_units);
    }
    return vector_fma(in_units, splat(x->unit), sum);
}
