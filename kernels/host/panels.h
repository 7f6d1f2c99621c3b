/* Products of panels, 16 tokens by 16 rows of weights, by AMX's tiles. Part of vector.h.
 *
 * A tile of weights is what packings hold anyway: four columns of 16 rows in 64 bytes. Sums of products are exact, so they
 * are those of dot_unsigned; as that they are of 16 columns, for activations have a shift for so many.
 */
#define PANEL_TOKENS 16
#define PANELS 8 /* of a tile of weights at once */
#define PANEL_VECTORS 12 /* of a block of weights */

/* Registers by number: activations of a block, weights of its halves, sums of these. */
#define TILE_X 0
#define TILE_FIRST 1
#define TILE_SECOND 2
#define TILE_FIRST_SUMS 3
#define TILE_SECOND_SUMS 4

/* Intel's Architecture Instruction Set Extensions, "LDTILECFG": palette 1, bytes of a row and rows of each register. */
struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* A thread's registers are set up for a kernel, and given back, so that nobody else has to save them. */
INLINE void begin_panels(void)
{
    static const struct tile_shapes shapes = { 1, 0, { 0 }, { 32, 64, 64, 64, 64 }, { 16, 8, 8, 16, 16 } };
    _tile_loadconfig(&shapes);
}
INLINE void end_panels(void) { _tile_release(); }

/* dots[half][t][r]: sums over 16 columns each. Args: weights: int8, four vectors of the first half's, four of zeros, four of
 * the second half's: so one register of activations is multiplied with both. x: a block's quants of the first token,
 * `stride` bytes before the next one's. */
INLINE void multiply_panel(const u8x64 weights[PANEL_VECTORS], const int8_t *x, size_t stride,
                           i32x16 dots[2][PANEL_TOKENS])
{
    __asm__ volatile("" ::: "memory"); /* GCC does not know that tiles read and write memory */
    _tile_loadd(TILE_X, x, stride);
    _tile_loadd(TILE_FIRST, weights, 64);
    _tile_loadd(TILE_SECOND, weights + 4, 64);
    _tile_zero(TILE_FIRST_SUMS);
    _tile_zero(TILE_SECOND_SUMS);
    _tile_dpbssd(TILE_FIRST_SUMS, TILE_X, TILE_FIRST);
    _tile_dpbssd(TILE_SECOND_SUMS, TILE_X, TILE_SECOND);
    _tile_stored(TILE_FIRST_SUMS, dots[0], 64);
    _tile_stored(TILE_SECOND_SUMS, dots[1], 64);
    __asm__ volatile("" ::: "memory");
}
