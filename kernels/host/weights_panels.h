/* A tile of weights times panels of 16 tokens, to the bits of other tokens' products. Part of weights_products.h.
 */

/* A block's weights as signed bytes, in the order of multiply_panel. */
INLINE void unpack_panel(const uint8_t *tile, int block, u8x64 w[PANEL_VECTORS], struct block_scales *s,
                         struct span_scales *all)
{
    u8x64 plain[8];
    unpack_block(tile, block, plain, s, 0);
    unpack_minima(tile, block, all);
    for (int v = 0; v < 4; v++) {
        w[v] = plain[v];
        w[v + 4] = (u8x64){ 0 };
        w[v + 8] = plain[v + 4];
    }
}

/* Adds the products of some blocks with a panel to its sums. One block's dots are made while those of the one before are
 * scaled: tiles have their own unit, and what it makes takes the way over memory. Args: x: the first token's span. */
INLINE void add_panel(u8x64 w[SPAN_BLOCKS][PANEL_VECTORS], const struct block_scales *s, const struct span_scales *all,
                      int count, const activations *x, f32x16 *sums)
{
    const size_t stride = ROW_ACTIVATIONS * sizeof *x;
    i32x16 dots[2][2][PANEL_TOKENS];
    partial panel[PANEL_TOKENS]; /* stays in registers */
    for (int t = 0; t < PANEL_TOKENS; t++) panel[t] = begin_span(sums[t]);
    multiply_panel(w[0], block_of(x, 0).quants, stride, dots[0]);
    for (int b = 0; b < count; b++) {
        if (b + 1 < count) multiply_panel(w[b + 1], block_of(x, b + 1).quants, stride, dots[(b + 1) & 1]);
#pragma GCC unroll 16
        for (int t = 0; t < PANEL_TOKENS; t++) {
            const activations *own = x + (size_t)t * ROW_ACTIVATIONS;
            i32x16 shifted[2];
            for (int half = 0; half < 2; half++)
                shifted[half] = shift_lanes(dots[b & 1][half][t], block_of(own, b).shifts[half]);
            panel[t] = add_products(panel[t], shifted, s + b, own, b, 0);
        }
    }
    for (int t = 0; t < PANEL_TOKENS; t++) sums[t] = end_span(panel[t], sums[t], all, x + (size_t)t * ROW_ACTIVATIONS);
}

/* Adds a tile's products with `panels` panels to `sums`, which are 0. */
INLINE void multiply_panels(const uint8_t *tile, const activations *x, int panels, f32x16 *sums)
{
    const int blocks = COLUMNS / 32;
    for (int first = 0; first < blocks; first += SPAN_BLOCKS, x += SPAN_ACTIVATIONS) {
        u8x64 w[SPAN_BLOCKS][PANEL_VECTORS];
        struct block_scales s[SPAN_BLOCKS];
        struct span_scales all;
        const int count = int_min(SPAN_BLOCKS, blocks - first);
        unpack_span(tile, first, &all);
        for (int b = 0; b < count; b++) prefetch_after(tile + block_offset(first + b), PANEL_TOKENS);
        for (int b = 0; b < count; b++) unpack_panel(tile, first + b, w[b], s + b, &all);
        for (int panel = 0; panel < panels; panel++)
            add_panel(w, s, &all, count, x + (size_t)(panel * PANEL_TOKENS) * ROW_ACTIVATIONS,
                      sums + panel * PANEL_TOKENS);
    }
}
