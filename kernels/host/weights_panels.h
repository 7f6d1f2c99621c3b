/* A tile of weights times panels of 16 tokens, to the bits of other tokens' products. Part of weights_quantized.h.
 */

/* A block's weights as signed bytes, in the order of multiply_panel. */
INLINE void unpack_panel(const uint8_t *tile, int block, u8x64 w[PANEL_VECTORS], struct block_scales *s)
{
    u8x64 plain[8];
    unpack_block(tile, block, plain, s, 0);
    for (int v = 0; v < 4; v++) {
        w[v] = plain[v];
        w[v + 4] = (u8x64){ 0 };
        w[v + 8] = plain[v + 4];
    }
}

/* Dots of a panel with the blocks of a unit of its activations. */
struct panel_dots {
    i32x16 of[UNIT_BLOCKS][2][PANEL_TOKENS];
};

INLINE void dot_panel(u8x64 w[UNIT_BLOCKS][PANEL_VECTORS], const struct q8_block *x, size_t stride,
                      struct panel_dots *dots)
{
#pragma GCC unroll 2
    for (int i = 0; i < UNIT_BLOCKS; i++) multiply_panel(w[i], x[i].quants, stride, dots->of[i]);
}

/* Token t's sum and its products with the blocks of a unit: as multiply_block adds them. */
INLINE f32x16 add_products(f32x16 sum, const struct panel_dots *dots, int t, const struct block_scales *s,
                           const struct q8_block *x)
{
    f32x16 part = splat(0);
#pragma GCC unroll 2
    for (int i = 0; i < UNIT_BLOCKS; i++) {
        i32x16 shifted[2];
        for (int half = 0; half < 2; half++) shifted[half] = shift_lanes(dots->of[i][half][t], x[i].shifts[half]);
        part = scale_dots(shifted, s + i, part, i == 0);
        if (i == UNIT_BLOCKS - 1) sum = vector_fma(part, splat(x[i].unit), sum);
        if (HAS_MINIMUM) sum = vector_fma(s[i].minimum[0], splat(x[i].scaled_sums[1]), sum);
    }
    return sum;
}

/* Adds the products of some blocks with a panel to its sums. One unit's dots are made while those of the one before are
 * scaled: tiles are computed beside vectors, and what they make takes the way over memory. Args: x: the first token's
 * first block. */
INLINE void add_panel(u8x64 w[SPAN_BLOCKS][PANEL_VECTORS], const struct block_scales *s, int count,
                      const struct q8_block *x, f32x16 *sums)
{
    const size_t stride = COLUMNS / 32 * sizeof *x;
    struct panel_dots dots[2];
    f32x16 panel[PANEL_TOKENS]; /* stays in registers */
    for (int t = 0; t < PANEL_TOKENS; t++) panel[t] = sums[t];
    dot_panel(w, x, stride, dots);
    for (int b = 0; b < count; b += UNIT_BLOCKS) {
        const int next = b + UNIT_BLOCKS, turn = b / UNIT_BLOCKS & 1;
        if (next < count) dot_panel(w + next, x + next, stride, dots + !turn);
#pragma GCC unroll 16
        for (int t = 0; t < PANEL_TOKENS; t++)
            panel[t] = add_products(panel[t], dots + turn, t, s + b, x + b + (size_t)t * (COLUMNS / 32));
    }
    for (int t = 0; t < PANEL_TOKENS; t++) sums[t] = panel[t];
}

/* Adds a tile's products with `panels` panels to `sums`, which are 0. */
INLINE void multiply_panels(const uint8_t *tile, const struct q8_block *x, int panels, f32x16 *sums)
{
    const int blocks = COLUMNS / 32;
    for (int first = 0; first < blocks; first += SPAN_BLOCKS) {
        u8x64 w[SPAN_BLOCKS][PANEL_VECTORS];
        struct block_scales s[SPAN_BLOCKS];
        const int count = int_min(SPAN_BLOCKS, blocks - first);
        for (int b = 0; b < count; b++) prefetch_after(tile + block_offset(first + b));
        for (int b = 0; b < count; b++) unpack_panel(tile, first + b, w[b], s + b);
        for (int panel = 0; panel < panels; panel++)
            add_panel(w, s, count, x + (size_t)(panel * PANEL_TOKENS) * (size_t)blocks + first,
                      sums + panel * PANEL_TOKENS);
    }
}
