// Matrix instructions. Products are exact in double, the K products of an element are summed in double in the order of K,
// added to C, and rounded once: more precise than the hardware, whose internal order and rounding AMD does not publish.
#include "numeric.h"

enum { E_F16, E_BF16, E_F32, E_F64, E_I8, E_U8, E_I4, E_U4, E_I32, E_FP8, E_BF8 };

static f64 small_float(u32 x, int exponent_bits, int mantissa_bits, int bias, int finite_only) {
  int e = (int)(x >> mantissa_bits & ((1u << exponent_bits) - 1)), m = (int)(x & ((1u << mantissa_bits) - 1));
  f64 sign = x >> 7 & 1 ? -1 : 1;
  if (finite_only ? (x & 127) == 127 : e == (1 << exponent_bits) - 1) return finite_only || m ? __builtin_nan("") : sign * __builtin_inf();
  f64 one = 1 << mantissa_bits;
  return sign * (e ? ldexp(1 + m / one, e - bias) : ldexp(m / one, 1 - bias));
}

static f64 float_element(const Wave *w, u32 row, u32 l, u32 k, int type) {
  switch (type) {
    case E_F16: { u16 b = (u16)(w->v[row + k / 2][l] >> (16 * (k & 1))); f16 h; memcpy(&h, &b, 2); return (f64)(f32)h; }
    case E_BF16: { u32 b = w->v[row + k / 2][l] >> (16 * (k & 1)) << 16; f32 f; memcpy(&f, &b, 4); return f; }
    case E_F32: { f32 f; memcpy(&f, &w->v[row + k][l], 4); return f; }
    case E_F64: { u64 b = (u64)w->v[row + 2 * k + 1][l] << 32 | w->v[row + 2 * k][l]; f64 f; memcpy(&f, &b, 8); return f; }
    case E_I32: return (i32)w->v[row + k][l];
    case E_FP8: return small_float(w->v[row + k / 4][l] >> (8 * (k & 3)) & 255, 4, 3, w->launch->has_acc ? 8 : 7, 1);
    default: return small_float(w->v[row + k / 4][l] >> (8 * (k & 3)) & 255, 5, 2, w->launch->has_acc ? 16 : 15, 0);
  }
}

// The first n elements of lane l's operand, which starts at register row.
static void unpack(const Wave *w, u32 row, u32 l, u32 n, int type, f64 *out) {
  int bits = type == E_I4 || type == E_U4 ? 4 : 8, up = 32 - bits;
  if (type < E_I8 || type > E_U4) {
    for (u32 k = 0; k < n; k++) out[k] = float_element(w, row, l, k, type);
    return;
  }
  for (u32 k = 0, per_word = 32 / (u32)bits; k < n; k += per_word) {
    u32 word = w->v[row + k / per_word][l];
    for (u32 i = 0; i < per_word && k + i < n; i++) {
      u32 x = word >> (i * (u32)bits) << up;
      out[k + i] = type == E_I8 || type == E_I4 ? (f64)((i32)x >> up) : (f64)(x >> up);
    }
  }
}

// D[i][j] = sum over k of A[k][i] * B[k][j]; integers (of at most 8 bits) are exact in float too, which is faster.
#define PRODUCT(T, M)                                                                               \
  static void product_##T##_##M(u32 K, const f64 *A, const f64 *B, f64 *D) {                        \
    T sums[M][M] = {}, row[M], column[M];                                                           \
    for (u32 k = 0; k < K; k++) {                                                                   \
      for (u32 j = 0; j < M; j++) row[j] = (T)B[k * M + j], column[j] = (T)A[k * M + j];            \
      for (u32 i = 0; i < M; i++)                                                                   \
        for (u32 j = 0; j < M; j++) sums[i][j] += column[i] * row[j];                               \
    }                                                                                               \
    for (u32 i = 0; i < M; i++)                                                                     \
      for (u32 j = 0; j < M; j++) D[i * M + j] = (f64)sums[i][j];                                   \
  }
PRODUCT(f32, 4)
PRODUCT(f32, 16)
PRODUCT(f32, 32)
PRODUCT(f64, 4)
PRODUCT(f64, 16)
PRODUCT(f64, 32)
static void product(u32 M, u32 K, int type, const f64 *A, const f64 *B, f64 *D) {
  int small = type >= E_I8 && type <= E_U4;
  if (M == 4) (small ? product_f32_4 : product_f64_4)(K, A, B, D);
  else if (M == 16) (small ? product_f32_16 : product_f64_16)(K, A, B, D);
  else (small ? product_f32_32 : product_f64_32)(K, A, B, D);
}

// Integer sums are exact in double (K is at most 128); they wrap, or saturate with clamp, as 32-bit integers do.
static void put(Wave *w, u32 row, u32 l, f64 value, int type, int clamp) {
  if (type == E_I32) {
    if (clamp) value = value > 2147483647.0 ? 2147483647.0 : value < -2147483648.0 ? -2147483648.0 : value;
    w->v[row][l] = (u32)(i64)value;
  } else if (type == E_F64) {
    u64 b;
    memcpy(&b, &value, 8);
    w->v[row][l] = (u32)b;
    w->v[row + 1][l] = (u32)(b >> 32);
  } else {
    f32 f = (f32)value;
    memcpy(&w->v[row][l], &f, 4);
  }
}

static f64 constant(const Operand *o, int type) {
  f32 f;
  memcpy(&f, &o->low, 4);
  return type == E_I32 ? (f64)(i32)o->low : type == E_F64 ? ({ u64 b = (u64)o->high << 32 | o->low; f64 d; memcpy(&d, &b, 8); d; }) : f;
}

static f64 signed_element(f64 x, u32 flip) { return flip ? -x : x; }

// WMMA, 16x16xK. imm: K, type of A, type of B, type of C and D, generation (11 or 12), negations (bits: A low, A high, B
// low, B high, C neg, C abs). gfx11: a lane holds a whole row of A (column of B), lanes 16-31 repeat lanes 0-15, and C's
// register r holds row 2r + lane / 16 (wave64: 4r + lane / 16). gfx12: lanes 0-15 hold the first half of each 2 * size
// run of K... as laid out in k_of, and C's register r holds row r + 8 * (lane / 16) (wave64: r + 4 * (lane / 16)).
// gfx11 wants A and B repeated in the upper lanes: a kernel that does not would be wrong on the hardware.
static int check_repeated(Wave *w, const Op *o, u32 K) {
  for (int m = 0; m < 2; m++) {
    int type = o->imm[1 + m];
    u32 rows = K * (type <= E_BF16 ? 16 : type == E_I4 || type == E_U4 ? 4 : 8) / 32;
    for (u32 r = 0; r < rows; r++)
      for (u32 l = 16; l < W; l++)
        if (w->v[o->s[m].index + r][l] != w->v[o->s[m].index + r][l & 15]) return fail(w, o, FAULT_WMMA, l, r, 4, 0);
  }
  return 0;
}

static int h_wmma(Wave *w, const Op *o) {
  u32 K = (u32)o->imm[0], generation = (u32)o->imm[4], parts = W / 16, negate = (u32)o->imm[5];
  int ta = o->imm[1], tb = o->imm[2], tc = o->imm[3], half = tc == E_F16 || tc == E_BF16;
  u32 c = o->s[2].index, high = o->s[2].shift ? 1 : 0, run = generation == 11 ? K : K / parts;
  f64 operand[2][64 * 16], D[16][16], elements[64];
  if (generation == 11 && check_repeated(w, o, K)) return FAULTED;
  for (u32 m = 0; m < 2; m++)
    for (u32 l = 0; l < 16 * (K / run); l++) {
      unpack(w, o->s[m].index, l, run, m ? tb : ta, elements);
      for (u32 k = 0; k < run; k++)
        operand[m][(l / 16 * run + k) * 16 + l % 16] = signed_element(elements[k], negate >> (2 * m + (k & 1)) & 1);
    }
  product(16, K, ta, operand[0], operand[1], D[0]);
  V_u32 out[8];
  u32 per_lane = 16 / parts;
  for (u32 r = 0; r < per_lane; r++) {
    u32 row = generation == 12 && half ? r / 2 : r;
    for (u32 l = 0; l < W; l++) {
      u32 m = generation == 11 ? parts * r + l / 16 : r + per_lane * (l / 16), n = l & 15;
      u32 at = generation == 11 ? high : r & 1;
      f64 old = o->s[2].kind != KIND_VECTOR ? constant(&o->s[2], half ? E_F32 : tc)
                : half                      ? float_element(w, c + row, l, at, tc)
                                            : float_element(w, c, l, r, tc);
      if (negate >> 5 & 1) old = __builtin_fabs(old);
      f64 value = D[m][n] + signed_element(old, negate >> 4 & 1);
      if (!half) {
        put(w, ROW_TEMPORARY, l, value, tc, (int)o->clamp);
        out[r][l] = w->v[ROW_TEMPORARY][l];
        continue;
      }
      f16 h = (f16)double_to_half(ALL(f64, value))[0];
      u16 bits;
      memcpy(&bits, &h, 2);
      if (tc == E_BF16) bits = (u16)float_to_bf16((f32)value);
      u32 word = generation == 12 && at ? out[row][l] : w->v[o->dst + row][l];
      out[row][l] = at ? (word & 0xffff) | (u32)bits << 16 : (word & 0xffff0000u) | bits;
    }
  }
  u32 rows = generation == 12 && half ? per_lane / 2 : per_lane;
  for (u32 r = 0; r < rows; r++) ROW(w, o->dst + r) = out[r];
  return 0;
}

// MFMA. imm: M (16, 32 or 4; N is the same), K, blocks, type of A and B, type of C and D, negation or broadcast (unused).
// Lane l holds, of A, row l % M and the elements of K of its group; of D, column l % N. D's rows come in runs of 4 a lane.
// Blocks are independent products, in neighbouring groups of lanes.
#if W == 64
static int h_mfma(Wave *w, const Op *o) {
  u32 M = (u32)o->imm[0], K = (u32)o->imm[1], blocks = (u32)o->imm[2], out = (u32)o->imm[4];
  u32 groups = 64 / M / blocks, run = K / groups, rows = M * M * blocks / 64, step = out == E_F64 ? 2 : 1, lanes = 64 / M;
  static __thread f64 operand[2][16][64 * 16], D[16][32 * 32];
  static __thread u32 result[64][64];
  f64 elements[64];
  for (u32 m = 0; m < 2; m++)
    for (u32 l = 0; l < 64; l++) {
      unpack(w, o->s[m].index, l, run, m ? o->imm[5] : o->imm[3], elements);
      u32 group = l / M % groups;
      for (u32 k = 0; k < run; k++) operand[m][l / M / groups][(group * run + k) * M + l % M] = elements[k];
    }
  for (u32 block = 0; block < blocks; block++) product(M, K, o->imm[3], operand[0][block], operand[1][block], D[block]);
  for (u32 l = 0; l < 64; l++)
    for (u32 r = 0; r < rows; r++) {
      // Where lane l's register r lies in the result.
      u32 block, i, j = l % M;
      if (M == 4) block = l / 4, i = r;
      else if (out == E_F64) block = 0, i = l / M + lanes * r;
      else {
        u32 per_block = rows / blocks;
        block = r / per_block;
        i = r % per_block / 4 * 4 * lanes + l / M * 4 + r % 4;
      }
      f64 old = o->s[2].kind == KIND_VECTOR ? float_element(w, o->s[2].index, l, r, (int)out) : constant(&o->s[2], (int)out);
      put(w, ROW_TEMPORARY, l, old + D[block][i * M + j], (int)out, (int)o->clamp);
      for (u32 s = 0; s < step; s++) result[step * r + s][l] = w->v[ROW_TEMPORARY + s][l];
    }
  for (u32 r = 0; r < rows * step; r++) memcpy(w->v[o->dst + r], result[r], sizeof result[r]);
  return 0;
}
#endif

#if W == 64
#define MFMA_ENTRY {"mfma", "", h_mfma},
#else
#define MFMA_ENTRY
#endif
const Entry matrix_table[] = {{"wmma", "", h_wmma}, MFMA_ENTRY {0, 0, 0}};
