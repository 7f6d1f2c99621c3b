// Scalar ALU and control flow.
#include "numeric.h"

typedef u32 none;
static inline u32 SL_u32(Wave *w, const Operand *o) { return scalar(w, o); }
static inline i32 SL_i32(Wave *w, const Operand *o) { return (i32)scalar(w, o); }
static inline u64 SL_u64(Wave *w, const Operand *o) { return scalar64(w, o); }
static inline i64 SL_i64(Wave *w, const Operand *o) { return (i64)scalar64(w, o); }
static inline f32 SL_f32(Wave *w, const Operand *o) { u32 x = (scalar(w, o) & o->and_mask) ^ o->xor_mask; f32 f; memcpy(&f, &x, 4); return f; }
static inline void SS_u32(Wave *w, const Op *o, u32 d) { write_scalar(w, o->dst, d); }
static inline void SS_u64(Wave *w, const Op *o, u64 d) { write_scalar64(w, o->dst, d); }
static inline void SS_f32(Wave *w, const Op *o, f32 d) { u32 x; memcpy(&x, &d, 4); write_scalar(w, o->dst, x); }
static inline void SS_none(Wave *w, const Op *o, u32 d) {}

#define NZ w->scc = d != 0
#define S1(n, D, A, e) static int h_##n(Wave *w, const Op *o) { A a = SL_##A(w, &o->s[0]); D d = 0; e; SS_##D(w, o, d); return 0; }
#define S2(n, D, A, B, e) static int h_##n(Wave *w, const Op *o) { A a = SL_##A(w, &o->s[0]); B b = SL_##B(w, &o->s[1]); D d = 0; e; SS_##D(w, o, d); return 0; }
#define S3(n, D, A, B, C, e) static int h_##n(Wave *w, const Op *o) { A a = SL_##A(w, &o->s[0]); B b = SL_##B(w, &o->s[1]); C c = SL_##C(w, &o->s[2]); D d = 0; e; SS_##D(w, o, d); return 0; }
#define EXEC_ONE(n, T, STORE, e_, result)                                       \
  static int h_##n(Wave *w, const Op *o) {                                      \
    T a = SL_##T(w, &o->s[0]), e = (T)((u64)w->s[S_EXEC + 1] << 32 | w->s[S_EXEC]), new = (e_); \
    STORE(w, o->dst, result);                                                   \
    STORE(w, S_EXEC, new);                                                      \
    w->scc = new != 0;                                                          \
    return 0;                                                                   \
  }
#define EXEC(n, e_) EXEC_ONE(n##_b32, u32, write_scalar, e_, e) EXEC_ONE(n##_b64, u64, write_scalar64, e_, e)
#define WREXEC(n, e_) EXEC_ONE(n##_b32, u32, write_scalar, e_, new) EXEC_ONE(n##_b64, u64, write_scalar64, e_, new)
#include "salu_ops.h"

static int jump(Wave *w, const Op *o) {
  w->pc = w->launch->ops + o->imm[0];
  // A slice of time: other waves of the workgroup get their turn, so a wave that waits for them in a loop is not endless.
  if (w->budget-- == 0) return YIELD;
  return CONTINUE;
}
static int h_s_branch(Wave *w, const Op *o) { return jump(w, o); }
static int h_s_cbranch_scc0(Wave *w, const Op *o) { return w->scc ? 0 : jump(w, o); }
static int h_s_cbranch_scc1(Wave *w, const Op *o) { return w->scc ? jump(w, o) : 0; }
static u64 vcc(const Wave *w) { return W == 64 ? (u64)w->s[S_VCC + 1] << 32 | w->s[S_VCC] : w->s[S_VCC]; }
static int h_s_cbranch_vccz(Wave *w, const Op *o) { return vcc(w) ? 0 : jump(w, o); }
static int h_s_cbranch_vccnz(Wave *w, const Op *o) { return vcc(w) ? jump(w, o) : 0; }
static int h_s_cbranch_execz(Wave *w, const Op *o) { return read_exec(w) ? 0 : jump(w, o); }
static int h_s_cbranch_execnz(Wave *w, const Op *o) { return read_exec(w) ? jump(w, o) : 0; }

static int go_to(Wave *w, const Op *o, u64 address) {
  u64 word = (address - w->launch->image) / 4;
  if (address < w->launch->image || address & 3 || word >= w->launch->image_words || w->launch->op_of_word[word] == ~0u)
    return fail(w, o, FAULT_TARGET, 0, address, 4, 0);
  w->pc = w->launch->ops + w->launch->op_of_word[word];
  return w->budget-- == 0 ? YIELD : CONTINUE;
}
// imm[0]: offset of the next instruction in the image.
static int h_s_getpc_b64(Wave *w, const Op *o) { write_scalar64(w, o->dst, w->launch->image + (u32)o->imm[0]); return 0; }
static int h_s_setpc_b64(Wave *w, const Op *o) { return go_to(w, o, scalar64(w, &o->s[0])); }
static int h_s_swappc_b64(Wave *w, const Op *o) {
  u64 target = scalar64(w, &o->s[0]);
  write_scalar64(w, o->dst, w->launch->image + (u32)o->imm[0]);
  return go_to(w, o, target);
}
static int h_s_call_b64(Wave *w, const Op *o) {
  write_scalar64(w, o->dst, w->launch->image + (u32)o->imm[0]);
  return go_to(w, o, w->launch->image + (u32)o->imm[1]);
}
static int h_s_nop(Wave *w, const Op *o) { return 0; }
static int h_s_sleep(Wave *w, const Op *o) { return YIELD; }
static int h_s_endpgm(Wave *w, const Op *o) { w->state = ENDED; return YIELD; }
static int h_s_trap(Wave *w, const Op *o) { return fail(w, o, FAULT_TRAP, 0, (u64)(u32)o->imm[0], 0, 0); }

static void arrive(Wave *w) {
  w->signaled = 1;
  w->wait_phase = w->group->barrier_phase;
  w->group->barrier_arrived++;
}
static int h_s_barrier_signal(Wave *w, const Op *o) { arrive(w); return YIELD; }
static int h_s_barrier_wait(Wave *w, const Op *o) { w->state = WAITING; return YIELD; }
static int h_s_barrier(Wave *w, const Op *o) { arrive(w); w->state = WAITING; return YIELD; }

// s_memtime and its kin: ops executed stand for cycles. imm[0]: words.
static int h_clock(Wave *w, const Op *o) {
  if (o->imm[0] == 1) write_scalar(w, o->dst, (u32)w->executed);
  else write_scalar64(w, o->dst, w->executed);
  return 0;
}
#undef S1
#undef S2
#undef S3
#undef EXEC
#undef WREXEC
#define S1(n, D, A, e) {#n, #D " " #A, h_##n},
#define S2(n, D, A, B, e) {#n, #D " " #A " " #B, h_##n},
#define S3(n, D, A, B, C, e) {#n, #D " " #A " " #B " " #C, h_##n},
#define EXEC(n, e) {#n "_b32", "u32 u32", h_##n##_b32}, {#n "_b64", "u64 u64", h_##n##_b64},
#define WREXEC(n, e) EXEC(n, e)
#define PLAIN(n) {#n, "", h_##n}
const Entry salu_table[] = {
#include "salu_ops.h"
    PLAIN(s_branch), PLAIN(s_cbranch_scc0), PLAIN(s_cbranch_scc1), PLAIN(s_cbranch_vccz), PLAIN(s_cbranch_vccnz),
    PLAIN(s_cbranch_execz), PLAIN(s_cbranch_execnz), PLAIN(s_nop), PLAIN(s_sleep), PLAIN(s_endpgm), PLAIN(s_trap),
    PLAIN(s_barrier), PLAIN(s_barrier_signal), PLAIN(s_barrier_wait), PLAIN(clock),
    {"s_getpc_b64", "u64", h_s_getpc_b64}, {"s_setpc_b64", "none u64", h_s_setpc_b64},
    {"s_swappc_b64", "u64 u64", h_s_swappc_b64}, {"s_call_b64", "u64", h_s_call_b64},
    {0, 0, 0}};
