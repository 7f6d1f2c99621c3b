// Per-lane addresses, checked and counted, then moved to and from registers.
#pragma once
#include "numeric.h"

// imm[0]: bytes a lane. imm[1]: flags. imm[2]: byte offset. imm[3]: atomic operation.
enum { MEM_SIGNED = 1, MEM_D16 = 2, MEM_HIGH = 4, MEM_RETURN = 8 };
enum { READ, WRITE, ATOMIC };
enum { A_SWAP, A_CMPSWAP, A_ADD, A_SUB, A_SMIN, A_UMIN, A_SMAX, A_UMAX, A_AND, A_OR, A_XOR, A_INC, A_DEC, A_FADD, A_FMIN,
       A_FMAX, A_PK_ADD_F16, A_PK_ADD_BF16, A_CSUB, A_COND_SUB, A_RSUB, A_MSKOR };

typedef struct {
  u8 *at[W];  // host address for each active lane
} Lanes;

#define FOR_LANES(l, lanes) for (u64 left_ = (lanes), l; left_ && (l = (u64)__builtin_ctzll(left_), 1); left_ &= left_ - 1)

// Whether all lanes are active and lane l accesses address[0] + l * size.
static inline int contiguous(const u64 *address, u32 size, u64 lanes) {
  if (lanes != (Mask)~(Mask)0) return 0;
  V_u64 a, steps = __builtin_convertvector(EACH(u32, (u32)l), V_u64) * size;
  memcpy(&a, address, sizeof a);
  return !BITS(a != a[0] + steps);
}

int resolve_global(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out);
int resolve_lds(Wave *w, const Op *o, const u64 *address, u32 size, u64 lanes, int kind, Lanes *out);
void move_in(Wave *w, u32 row, u32 size, u32 flags, u64 lanes, const Lanes *from);
void move_out(Wave *w, const Operand *data, u32 size, u32 flags, u64 lanes, const Lanes *to);
u64 atomic_result(int operation, u32 size, u64 old, u64 x, u64 y);
