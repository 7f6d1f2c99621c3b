// Vector ALU handlers: the table of valu_ops.h, and those that write masks or more than one register.
#include "numeric.h"

static inline u32 permute(u32 s0, u32 s1, u32 selector) {
  u64 data = (u64)s0 << 32 | s1;
  u32 r = 0;
  for (int i = 0; i < 4; i++) {
    u32 k = selector >> (8 * i) & 255, byte;
    if (k >= 13) byte = 255;
    else if (k == 12) byte = 0;
    else if (k >= 8) byte = data >> (16 * (k - 8) + 15) & 1 ? 255 : 0;
    else byte = (u32)(data >> (8 * k)) & 255;
    r |= byte << (8 * i);
  }
  return r;
}

static inline u32 sad(u32 a, u32 b, u32 sum, int masked) {
  for (int i = 0; i < 32; i += 8) {
    i32 x = a >> i & 255, y = b >> i & 255;
    if (!masked || y) sum += (u32)__builtin_abs(x - y);
  }
  return sum;
}

// Integer dot product. imm[0] bit 0: a is signed; bit 1: b is signed; imm[1]: the result is signed (for clamp).
static inline V_u32 dot(V_u32 a, V_u32 b, V_u32 sum, int bits, const Op *o) {
  int up = 32 - bits;
  if (__builtin_expect(o->clamp, 0)) {
    for (int l = 0; l < W; l++) {
      i64 total = o->imm[1] ? (i64)(i32)sum[l] : (i64)sum[l], low = o->imm[1] ? -2147483648ll : 0;
      i64 high = o->imm[1] ? 2147483647ll : 4294967295ll;
      for (int i = 0; i < 32; i += bits) {
        u32 x = a[l] >> i << up, y = b[l] >> i << up;
        total += (o->imm[0] & 1 ? (i32)x >> up : (i64)(x >> up)) * (o->imm[0] & 2 ? (i32)y >> up : (i64)(y >> up));
      }
      sum[l] = (u32)(total < low ? low : total > high ? high : total);
    }
    return sum;
  }
  for (int i = 0; i < 32; i += bits) {
    V_u32 x = a >> i << up, y = b >> i << up;
    x = o->imm[0] & 1 ? (V_u32)((V_i32)x >> up) : x >> up;
    y = o->imm[0] & 2 ? (V_u32)((V_i32)y >> up) : y >> up;
    sum += x * y;
  }
  return sum;
}

#define OP1(n, D, A, e) static int h_##n(Wave *w, const Op *o) { V_##A a = LD_##A(w, &o->s[0]); ST_##D(w, o, (e)); return 0; }
#define OP2(n, D, A, B, e) static int h_##n(Wave *w, const Op *o) { V_##A a = LD_##A(w, &o->s[0]); V_##B b = LD_##B(w, &o->s[1]); ST_##D(w, o, (e)); return 0; }
#define OP3(n, D, A, B, C, e) static int h_##n(Wave *w, const Op *o) { V_##A a = LD_##A(w, &o->s[0]); V_##B b = LD_##B(w, &o->s[1]); V_##C c = LD_##C(w, &o->s[2]); ST_##D(w, o, (e)); return 0; }
#define PK(n, T, e) static int h_##n(Wave *w, const Op *o) { V_pk a = LD_pk(w, &o->s[0]), b = LD_pk(w, &o->s[1]), c = LD_pk(w, &o->s[2]); ST_u32(w, o, PACKED(T, e)); return 0; }
#include "valu_ops.h"
#undef OP1
#undef OP2
#undef OP3
#undef PK

#define OP1(n, D, A, e) {#n, #D " " #A, h_##n},
#define OP2(n, D, A, B, e) {#n, #D " " #A " " #B, h_##n},
#define OP3(n, D, A, B, C, e) {#n, #D " " #A " " #B " " #C, h_##n},
#define PK(n, T, e) {#n, "pk " #T " " #T " " #T, h_##n},
const Entry valu_table[] = {
#include "valu_ops.h"
    {0, 0, 0}};
