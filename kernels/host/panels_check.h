/* Whether this process may use tiles, and whether they compute what they should. Part of program.h.
 *
 * Sources: Intel's Software Developer's Manual, CPUID and XCR0; Linux's Documentation/arch/x86/xstate.rst.
 */
#include "vector.h"

/* Answers; runtime/device/host.py has their words. */
#define PANELS_WORK 0
#define PANELS_NO_CPU 1 /* the processor has no tiles */
#define PANELS_NO_SYSTEM 2 /* the system saves none */
#define PANELS_NO_PERMISSION 3
#define PANELS_NO_TRIAL 4 /* no process for it */
#define PANELS_DIFFER 5 /* other sums, or the trial died */

#define SYS_RT_SIGACTION 13
#define SYS_CLONE 56
#define SYS_EXIT 60
#define SYS_WAIT4 61
#define SYS_PRCTL 157
#define SYS_ARCH_PRCTL 158
#define PR_SET_DUMPABLE 4
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XTILEDATA 18
#define WALL 0x40000000

/* Whether products of some panels by tiles are other than those by plain arithmetic; extremes are among the numbers. */
static int panels_differ(void)
{
    static int8_t weights[PANEL_VECTORS * 64] __attribute__((aligned(64)));
    struct q8_block x[PANEL_TOKENS];
    i32x16 dots[2][PANEL_TOKENS];
    uint32_t state = 1;
    int differ = 0;
    begin_panels();
    for (int round = 0; round < 16; round++) {
        for (int i = 0; i < PANEL_VECTORS * 64; i++) {
            state = state * 1664525 + 1013904223;
            weights[i] = i / 256 == 1 ? 0 : round == 0 ? -128 : round == 1 ? 127 : (int8_t)(state >> 24);
        }
        for (int i = 0; i < PANEL_TOKENS * 32; i++) {
            state = state * 1664525 + 1013904223;
            x[i / 32].quants[i % 32] = (int8_t)(round == 0 ? -127 : (int)(state >> 24) % 255 - 127);
        }
        multiply_panel((const u8x64 *)weights, x->quants, sizeof *x, dots);
        for (int i = 0; i < 2 * PANEL_TOKENS * 16; i++) {
            const int half = i / 256, token = i / 16 % 16, row = i % 16;
            int32_t sum = 0;
            for (int c = 0; c < 16; c++)
                sum += weights[512 * half + 64 * (c / 4) + 4 * row + c % 4] * x[token].quants[16 * half + c];
            differ |= dots[half][token][row] != sum;
        }
    }
    end_panels();
    return differ;
}

/* In a process of its own: an instruction that is not there would end this one. Its end sends no signal, so that nobody
 * else waits for it. */
static int32_t try_panels(void)
{
    int32_t status = -1;
    const long child = syscall(SYS_CLONE, 0L, 0L, 0L, 0L, 0L);
    if (child == 0) {
        const unsigned long usual[4] = { 0 }; /* struct sigaction: SIG_DFL */
        static const long signals[] = { 4, 7, 8, 11 }; /* SIGILL, SIGBUS, SIGFPE, SIGSEGV */
        for (int i = 0; i < 4; i++) syscall(SYS_RT_SIGACTION, signals[i], usual, 0L, 8L);
        syscall(SYS_PRCTL, (long)PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
        for (;;) syscall(SYS_EXIT, (long)panels_differ());
    }
    if (child < 0) return PANELS_NO_TRIAL;
    /* A signal may end the wait; what waits for a process that is gone fails at once, and so often at most. */
    for (int tries = 0; tries < 1000; tries++)
        if (syscall(SYS_WAIT4, child, &status, (long)WALL, 0L) == child) break;
    return status == 0 ? PANELS_WORK : PANELS_DIFFER;
}

INLINE void cpuid(uint32_t leaf, uint32_t found[4])
{
    __asm__ volatile("cpuid" : "=a"(found[0]), "=b"(found[1]), "=c"(found[2]), "=d"(found[3]) : "a"(leaf), "c"(0));
}

/* The permission is the process's: threads that begin later have it, and those that are there. */
EXPORT int32_t rfc_panels_problem(void)
{
    uint32_t found[4], low, high;
    cpuid(0, found);
    if (found[0] < 7) return PANELS_NO_CPU;
    cpuid(7, found);
    if ((found[3] >> 24 & 3) != 3) return PANELS_NO_CPU; /* AMX-TILE, AMX-INT8 */
    cpuid(1, found);
    if (!(found[2] >> 27 & 1)) return PANELS_NO_SYSTEM; /* OSXSAVE */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return PANELS_NO_SYSTEM; /* XTILECFG, XTILEDATA */
    if (syscall(SYS_ARCH_PRCTL, (long)ARCH_REQ_XCOMP_PERM, (long)XTILEDATA)) return PANELS_NO_PERMISSION;
    return try_panels();
}
