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

/* Adds the products of some blocks with a panel to its sums. One block's dots are made while those of the one before are
 * scaled: tiles have their own unit, and what it makes takes the way over memory. Args: x: the first token's first block. */
INLINE void add_panel(u8x64 w[SPAN_BLOCKS][PANEL_VECTORS], const struct block_scales *s, int count,
                      const struct q8_block *x, f32x16 *sums)
{
    const size_t stride = COLUMNS / 32 * sizeof *x;
    i32x16 dots[2][2][PANEL_TOKENS];
    f32x16 panel[PANEL_TOKENS]; /* stays in registers */
    for (int t = 0; t < PANEL_TOKENS; t++) panel[t] = sums[t];
    multiply_panel(w[0], x->quants, stride, dots[0]);
    for (int b = 0; b < count; b++) {
        if (b + 1 < count) multiply_panel(w[b + 1], x[b + 1].quants, stride, dots[(b + 1) & 1]);
#pragma GCC unroll 16
        for (int t = 0; t < PANEL_TOKENS; t++) {
            const struct q8_block *a = x + b + (size_t)t * (COLUMNS / 32);
            i32x16 shifted[2];
            for (int half = 0; half < 2; half++) shifted[half] = shift_lanes(dots[b & 1][half][t], a->shifts[half]);
            panel[t] = add_products(panel[t], shifted, s + b, a);
        }
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
