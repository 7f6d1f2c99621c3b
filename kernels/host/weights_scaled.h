/* Q2_K's products: a quant of 2 bits times the scale of its 16 columns fits a byte, so that floats are multiplied with
 * the activations' units alone, and with the superblock's scale once for 256 columns. Part of weights_quantized.h.
 */

/* Weights without the superblock's scale and minimum. A row's four products are the bytes of its lane; a look-up stays
 * within 16 bytes, which are those of four rows. Args: p: the block. */
INLINE void unpack_scaled(const uint8_t *p, u8x64 w[8])
{
    const i32x16 lanes = { 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3 };
    const u8x64 rows = (u8x64)(lanes * 0x04040404);
    unpack_second(p + 16 * SCALE_BYTES, w);
    for (int half = 0; half < 2; half++) {
        const u8x64 products = (u8x64)((load_u8(p + 16 * half) & 15) * 0x03020100);
        for (int v = 4 * half; v < 4 * half + 4; v++) w[v] = look_up_rows(products, w[v] | rows);
    }
}

/* Adds a block's products to the sums of `tokens` tokens; `x` is the first one's block. */
INLINE void multiply_block(const u8x64 w[8], const struct q8_block *x, const int tokens, f32x16 *sums)
{
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const struct q8_block *a = x + (size_t)t * (COLUMNS / 32);
        i32x16 dots[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            dots[half] = splat_int(0);
            for (int v = 4 * half; v < 4 * half + 4; v++)
                dots[half] = dot_unsigned(dots[half], w[v], a->quants + 4 * v);
            dots[half] = shift_lanes(dots[half], a->shifts[half]);
        }
        sums[t] = vector_fma(to_f32(dots[0] + dots[1]), splat(a->unit), sums[t]);
    }
}

/* The same of two tiles and four tokens, as in weights_pairs.h. */
INLINE void multiply_blocks(const u8x64 w[8], const u8x64 v[8], const struct q8_block *x, f32x16 *sums, f32x16 *others)
{
    i32x16 dots[2][4];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const struct q8_block *a = x + (size_t)t * (COLUMNS / 32);
            i32x16 own[2] = { splat_int(0), splat_int(0) };
            for (int i = 4 * half; i < 4 * half + 4; i++) {
                own[0] = dot_unsigned(own[0], w[i], a->quants + 4 * i);
                own[1] = dot_unsigned(own[1], v[i], a->quants + 4 * i);
            }
            for (int i = 0; i < 2; i++) {
                own[i] = shift_lanes(own[i], a->shifts[half]);
                dots[i][t] = half ? dots[i][t] + own[i] : own[i];
            }
        }
    }
    for (int t = 0; t < 4; t++) {
        const f32x16 unit = splat(x[(size_t)t * (COLUMNS / 32)].unit);
        sums[t] = vector_fma(to_f32(dots[0][t]), unit, sums[t]);
        others[t] = vector_fma(to_f32(dots[1][t]), unit, others[t]);
    }
}

/* A block's minima, without the superblock's scale of them: of columns 0..15 less those of 16..31, which take the sum of
 * the first half's activations, and of 16..31, which take that of all. */
INLINE void unpack_minima(const uint8_t *p, f32x16 minima[2])
{
    const i32x16 second = load_u8(p + 16) >> 4;
    minima[0] = to_f32((load_u8(p) >> 4) - second);
    minima[1] = to_f32(second);
}

/* Takes a superblock's minima times activations from the sums; `scale` is that of the minima, negative. */
INLINE void subtract_minima(const f32x16 minima[2 * SPAN_BLOCKS], f32x16 scale, const struct q8_block *x,
                            const int tokens, f32x16 *sums)
{
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        const struct q8_block *a = x + (size_t)t * (COLUMNS / 32);
        f32x16 sum = splat(0);
        for (int i = 0; i < 2 * SPAN_BLOCKS; i++) sum = vector_fma(minima[i], splat(a[i / 2].scaled_sums[i % 2]), sum);
        sums[t] = vector_fma(sum, scale, sums[t]);
    }
}

/* Adds a superblock's products to one token's sums, as below: to scale whole sums takes less there than to scale weights,
 * and is equal. */
INLINE f32x16 multiply_one(const uint8_t *super, const struct q8_block *x, f32x16 sums)
{
    const uint8_t *p = super + 16 * SUPER_SCALE_BYTES;
    f32x16 sum = splat(0), taken = splat(0);
    for (int b = 0; b < SPAN_BLOCKS; b++, p += BLOCK_BYTES, x++) {
        u8x64 w[8];
        f32x16 minima[2];
        i32x16 dots[2];
        unpack_second(p + 16 * SCALE_BYTES, w);
        unpack_minima(p, minima);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            dots[half] = splat_int(0);
            for (int v = 4 * half; v < 4 * half + 4; v++)
                dots[half] = dot_unsigned(dots[half], w[v], x->quants + 4 * v);
            dots[half] = shift_lanes(dots[half] * (load_u8(p + 16 * half) & 15), x->shifts[half]);
            taken = vector_fma(minima[half], splat(x->scaled_sums[half]), taken);
        }
        sum = vector_fma(to_f32(dots[0] + dots[1]), splat(x->unit), sum);
    }
    return vector_fma(taken, -load_f16(super + 32), vector_fma(sum, load_f16(super), sums));
}

/* As multiply_tile in weights_quantized.h; superblocks in order, within one its blocks, then its minima. */
INLINE void multiply_tile(const uint8_t *tile, const void *activations, const int tokens, int groups,
                          const int together, f32x16 *sums)
{
    const struct q8_block *x = (const struct q8_block *)activations;
    for (int t = 0; t < tokens * groups; t++) sums[t] = splat(0);
    for (int super = 0; super < COLUMNS / 256; super++, tile += SUPER_BYTES, x += SPAN_BLOCKS) {
        if (tokens == 1) {
            sums[0] = multiply_one(tile, x, sums[0]);
            continue;
        }
        const f32x16 scale = load_f16(tile), scale_of_minima = -load_f16(tile + 32);
        const uint8_t *blocks = tile + 16 * SUPER_SCALE_BYTES;
        f32x16 minima[2 * SPAN_BLOCKS];
        u8x64 w[SPAN_BLOCKS][8];
        for (int b = 0; b < SPAN_BLOCKS && together > 1; b++) unpack_scaled(blocks + (size_t)b * BLOCK_BYTES, w[b]);
        for (int group = 0; group < groups; group++) {
            const struct q8_block *block = x + (size_t)(group * tokens) * (COLUMNS / 32);
            f32x16 parts[8]; /* stay in registers */
            for (int t = 0; t < tokens; t++) parts[t] = splat(0);
            for (int b = 0; b < SPAN_BLOCKS; b++) {
                const int at = together > 1 ? b : 0;
                if (together == 1) unpack_scaled(blocks + (size_t)b * BLOCK_BYTES, w[at]);
                multiply_block(w[at], block + b, tokens, parts);
            }
            for (int t = 0; t < tokens; t++)
                sums[group * tokens + t] = vector_fma(parts[t], scale, sums[group * tokens + t]);
            for (int b = 0; b < SPAN_BLOCKS && !group; b++) unpack_minima(blocks + b * BLOCK_BYTES, minima + 2 * b);
            subtract_minima(minima, scale_of_minima, block, tokens, sums + group * tokens);
        }
    }
}

/* Takes the minima of two tiles from the sums of four tokens. */
INLINE void subtract_both(const f32x16 minima[2 * SPAN_BLOCKS][2], const f32x16 scales[2], const struct q8_block *x,
                          f32x16 *sums, f32x16 *others)
{
    f32x16 taken[2][4] = { 0 };
    for (int i = 0; i < 2 * SPAN_BLOCKS; i++) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++) {
            const f32x16 sum = splat(x[(size_t)t * (COLUMNS / 32) + (size_t)(i / 2)].scaled_sums[i % 2]);
            taken[0][t] = vector_fma(minima[i][0], sum, taken[0][t]);
            taken[1][t] = vector_fma(minima[i][1], sum, taken[1][t]);
        }
    }
    for (int t = 0; t < 4; t++) {
        sums[t] = vector_fma(taken[0][t], scales[0], sums[t]);
        others[t] = vector_fma(taken[1][t], scales[1], others[t]);
    }
}

/* As multiply_tile, of two tiles and a multiple of four tokens. */
INLINE void multiply_tiles(const uint8_t *first, const uint8_t *second, const void *activations, int tokens,
                           f32x16 *first_sums, f32x16 *second_sums)
{
    const uint8_t *tiles[2] = { first, second };
    const struct q8_block *x = (const struct q8_block *)activations;
    for (int t = 0; t < tokens; t++) first_sums[t] = second_sums[t] = splat(0);
    for (int super = 0; super < COLUMNS / 256; super++, x += SPAN_BLOCKS) {
        f32x16 minima[2 * SPAN_BLOCKS][2];
        u8x64 w[2][SPAN_BLOCKS][8];
        f32x16 scales[2], scales_of_minima[2];
        for (int i = 0; i < 2; i++) {
            const uint8_t *tile = tiles[i] + (size_t)super * SUPER_BYTES, *blocks = tile + 16 * SUPER_SCALE_BYTES;
            scales[i] = load_f16(tile);
            scales_of_minima[i] = -load_f16(tile + 32);
            for (int b = 0; b < SPAN_BLOCKS; b++) {
                f32x16 own[2];
                unpack_minima(blocks + b * BLOCK_BYTES, own);
                for (int half = 0; half < 2; half++) minima[2 * b + half][i] = own[half];
                unpack_scaled(blocks + (size_t)b * BLOCK_BYTES, w[i][b]);
            }
        }
        for (int t = 0; t < tokens; t += 4) {
            const struct q8_block *block = x + (size_t)t * (COLUMNS / 32);
            f32x16 parts[2][4] = { 0 }; /* stay in registers */
            for (int b = 0; b < SPAN_BLOCKS; b++) multiply_blocks(w[0][b], w[1][b], block + b, parts[0], parts[1]);
            for (int i = 0; i < 4; i++) {
                first_sums[t + i] = vector_fma(parts[0][i], scales[0], first_sums[t + i]);
                second_sums[t + i] = vector_fma(parts[1][i], scales[1], second_sums[t + i]);
            }
            subtract_both(minima, scales_of_minima, block, first_sums + t, second_sums + t);
        }
    }
}
