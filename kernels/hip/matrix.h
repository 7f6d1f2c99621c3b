/* 32 rows by 32 or 16 tokens of a product of int8 matrices, by one wave: WMMA, MFMA or dot instructions.
 *
 * Constants: MATRIX_WMMA_GFX11, MATRIX_WMMA_GFX12, MATRIX_MFMA_16X16X16_I8, MATRIX_MFMA_32X32X16_I8 or MATRIX_NONE.
 * The first operand of a matrix instruction is tokens, the second rows. A lane then holds LANE_ROWS rows,
 * `lane_row(i)`, by LANE_TOKENS tokens, in slots `lane_slot(t)`: RUN of them are neighbours, which makes their scales
 * one load. Slots are tokens in another order where the instruction deals tokens out in turn (`token_of_slot`).
 * Each instruction sums 16 columns, the columns of one scale, so all ways give the same integers.
 */
#define STRIDE 80 /* bytes of a row of 64 in LDS: 16 byte loads of 8 neighbouring rows then meet no bank twice */

INLINE i32x4 load_four(const int8_t *p) { return *(const i32x4 *)p; }
INLINE i32x2 load_two(const int8_t *p) { return *(const i32x2 *)p; }

#if defined(MATRIX_WMMA_GFX11) || defined(MATRIX_WMMA_GFX12)
#define GEMM_WAVES 8 /* of 16 tokens: more would not fit the 128 registers that clang 15 has for WMMA */
#define LANE_ROWS 2
#define LANE_TOKENS 8
#define RUN 8
INLINE int32_t lane_row(int32_t i) { return 16 * i + lane_index() % 16; }
INLINE int32_t lane_slot(int32_t t) { return 16 * (t / 8) + 8 * (lane_index() / 16) + t % 8; }
#if defined(MATRIX_WMMA_GFX11)
INLINE int32_t token_of_slot(int32_t s) { return s / 16 * 16 + 2 * (s % 8) + s % 16 / 8; }
#else
INLINE int32_t token_of_slot(int32_t s) { return s; }
#endif
/* Dots of lane row i with the RUN tokens from t on, over the 16 columns at w and x ([32][STRIDE]). */
INLINE void multiply_run(const int8_t *w, const int8_t *x, int i, int t, int32_t dots[RUN])
{
    const int32_t at = lane_index() % 16;
#if defined(MATRIX_WMMA_GFX11)
    const i32x8 d = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, load_four(x + (2 * t + at) * STRIDE), true,
                                                               load_four(w + (16 * i + at) * STRIDE), i32x8{}, false);
#else
    const int32_t k = lane_index() / 16 * 8;
    const i32x8 d = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(
        true, load_two(x + (2 * t + at) * STRIDE + k), true, load_two(w + (16 * i + at) * STRIDE + k), i32x8{}, false);
#endif
    UNROLL_FOR (int n = 0; n < RUN; n++) dots[n] = d[n];
}

#elif defined(MATRIX_MFMA_16X16X16_I8)
#define LANE_ROWS 2
#define LANE_TOKENS 8
#define RUN 4
INLINE int32_t lane_row(int32_t i) { return 16 * i + lane_index() % 16; }
INLINE int32_t lane_slot(int32_t t) { return 16 * (t / 4) + 4 * (lane_index() / 16) + t % 4; }
INLINE int32_t token_of_slot(int32_t s) { return s; }
INLINE void multiply_run(const int8_t *w, const int8_t *x, int i, int t, int32_t dots[RUN])
{
    const int32_t at = lane_index() % 16, k = lane_index() / 16 * 4;
    const i32x4 d =
        __builtin_amdgcn_mfma_i32_16x16x16i8(*(const i32x1 *)(x + (4 * t + at) * STRIDE + k),
                                             *(const i32x1 *)(w + (16 * i + at) * STRIDE + k), i32x4{}, 0, 0, 0);
    UNROLL_FOR (int n = 0; n < RUN; n++) dots[n] = d[n];
}

#elif defined(MATRIX_MFMA_32X32X16_I8)
#define LANE_ROWS 1
#define LANE_TOKENS 16
#define RUN 16
INLINE int32_t lane_row(int32_t i) { return lane_index() % 32; }
INLINE int32_t lane_slot(int32_t t) { return 8 * (t / 4) + 4 * (lane_index() / 32) + t % 4; }
INLINE int32_t token_of_slot(int32_t s) { return s; }
INLINE void multiply_run(const int8_t *w, const int8_t *x, int i, int t, int32_t dots[RUN])
{
    const int32_t at = lane_index() % 32 * STRIDE + lane_index() / 32 * 8;
    const i32x16 d = __builtin_amdgcn_mfma_i32_32x32x16_i8(
        __builtin_bit_cast(long, load_two(x + at)), __builtin_bit_cast(long, load_two(w + at)), i32x16{}, 0, 0, 0);
    UNROLL_FOR (int n = 0; n < RUN; n++) dots[n] = d[n];
}

#elif defined(MATRIX_NONE)
#define LANE_ROWS 4
#define LANE_TOKENS (256 / WAVE_SIZE)
#define RUN LANE_TOKENS
INLINE int32_t lane_row(int32_t i) { return 8 * i + lane_index() % 8; }
INLINE int32_t lane_slot(int32_t t) { return LANE_TOKENS * (lane_index() / 8) + t; }
INLINE int32_t token_of_slot(int32_t s) { return s; }
INLINE void multiply_run(const int8_t *w, const int8_t *x, int i, int t, int32_t dots[RUN])
{
    const i32x4 weights = load_four(w + lane_row(i) * STRIDE);
    UNROLL_FOR (int n = 0; n < RUN; n++) {
        const i32x4 values = load_four(x + lane_slot(t + n) * STRIDE);
        dots[n] = 0;
        UNROLL_FOR (int v = 0; v < 4; v++) dots[n] = dot4(weights[v], values[v], dots[n]);
    }
}
#endif

#ifndef GEMM_WAVES
#define GEMM_WAVES 4
#endif
#define WAVE_TOKENS (128 / GEMM_WAVES) /* of the 64 of a workgroup, which has 64 rows: two waves side by side */
