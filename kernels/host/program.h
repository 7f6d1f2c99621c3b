/* The program: launches in order over a pool of threads. Python enters once a step, or once for each part of one.
 *
 * Threads take pieces of a launch, four for each and all of a size (the items of a launch read as many bytes each),
 * from a shared counter, so a thread that the system holds back does not hold the others; which thread does an item
 * never changes its result. Where items are left over, the first pieces have one more each, so that threads that are as
 * fast end together; had every other piece one, one thread would get them all. Between launches they meet at a barrier: a
 * short spin, then yielding. Between steps workers sleep on a futex.
 */
#include "common.h"

#define MAX_ARGUMENTS 8

struct launch {
    const struct kernel *kernel;
    void *arguments[MAX_ARGUMENTS];
};

struct program {
    const struct launch *launches;
    int32_t num_threads;
    int32_t first, end; /* launches to run */
    const struct step *step;
    unsigned long *threads;
    struct {
        int32_t next;
        int32_t padding[15];
    } *counters; /* [num_launches], a cache line each */
    int32_t stopping;
    uint32_t first_arrival; /* `arrived` when the step began; both only ever grow, modulo 2^32 */
    int32_t padding_a[16];
    int32_t step_number;
    int32_t padding_b[16];
    uint32_t arrived;
};

/* From the process: libc's, declared here because no libc header is included. */
extern void *calloc(size_t count, size_t size);
extern void free(void *p);
extern int pthread_create(unsigned long *thread, const void *attributes, void *(*start)(void *), void *argument);
extern int pthread_join(unsigned long thread, void **result);
extern int sched_yield(void);
extern long syscall(long number, ...);

#if defined(__x86_64__)
#define SYS_FUTEX 202
INLINE void pause_cpu(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
#define SYS_FUTEX 98
INLINE void pause_cpu(void) { __asm__ volatile("yield"); }
#endif
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129

INLINE void relax(int32_t *spins)
{
    if (++*spins < 2000)
        pause_cpu();
    else
        sched_yield();
}

static void run_launches(struct program *program)
{
    const struct step *step = program->step;
    const uint32_t first_arrival = program->first_arrival;
    const int32_t first = program->first, end = program->end;
    for (int32_t l = first; l < end; l++) {
        const struct launch *launch = program->launches + l;
        const int32_t items = launch->kernel->items(step), pieces = int_min(items, program->num_threads * 4);
        const int32_t size = pieces ? items / pieces : 0, larger = items - size * pieces;
        for (;;) {
            const int32_t piece = __atomic_fetch_add(&program->counters[l].next, 1, __ATOMIC_RELAXED);
            if (piece >= pieces) break;
            const int32_t begin = size * piece + int_min(piece, larger);
            launch->kernel->run(step, launch->arguments, begin, begin + size + (piece < larger));
        }
        /* A thread may still look here when the next step has begun: hence no reset, and a difference. */
        const uint32_t goal = first_arrival + (uint32_t)(l - first + 1) * (uint32_t)program->num_threads;
        int32_t spins = 0;
        __atomic_fetch_add(&program->arrived, 1, __ATOMIC_ACQ_REL);
        while ((int32_t)(__atomic_load_n(&program->arrived, __ATOMIC_ACQUIRE) - goal) < 0) relax(&spins);
    }
}

static void *work(void *argument)
{
    struct program *program = argument;
    int32_t done = 0;
    for (;;) {
        for (int32_t spins = 0; __atomic_load_n(&program->step_number, __ATOMIC_ACQUIRE) == done;)
            if (++spins < 2000)
                pause_cpu();
            else
                syscall(SYS_FUTEX, &program->step_number, FUTEX_WAIT_PRIVATE, done, (void *)0);
        done = __atomic_load_n(&program->step_number, __ATOMIC_ACQUIRE);
        if (program->stopping) return 0;
        run_launches(program);
    }
}

static void wake_workers(struct program *program)
{
    __atomic_fetch_add(&program->step_number, 1, __ATOMIC_RELEASE);
    syscall(SYS_FUTEX, &program->step_number, FUTEX_WAKE_PRIVATE, program->num_threads);
}

EXPORT int32_t rfc_abi_version(void) { return ABI_VERSION; }

EXPORT void rfc_program_destroy(struct program *program)
{
    program->stopping = 1;
    wake_workers(program);
    for (int32_t i = 0; i + 1 < program->num_threads; i++) pthread_join(program->threads[i], 0);
    free(program->threads);
    free(program->counters);
    free(program);
}

/* Null where memory or threads are not to be had. `launches` must outlive the program. */
EXPORT struct program *rfc_program_create(const struct launch *launches, int32_t num_launches, int32_t num_threads)
{
    struct program *program = calloc(1, sizeof *program);
    if (!program) return 0;
    program->launches = launches;
    program->counters = calloc((size_t)num_launches + 1, sizeof *program->counters);
    program->threads = calloc((size_t)num_threads, sizeof *program->threads);
    program->num_threads = 1;
    while (program->counters && program->threads && program->num_threads < num_threads) {
        if (pthread_create(program->threads + program->num_threads - 1, 0, work, program)) break;
        program->num_threads++;
    }
    if (program->num_threads == num_threads && program->counters && program->threads) return program;
    rfc_program_destroy(program);
    return 0;
}

/* Runs the launches [first, end) of a step. */
EXPORT void rfc_program_step(struct program *program, const struct step *step, int32_t first, int32_t end)
{
    if (first >= end) return; /* without a barrier a worker might miss it, and read the next one's range */
    program->step = step;
    program->first = first;
    program->end = end;
    program->first_arrival = program->arrived;
    for (int32_t l = first; l < end; l++) program->counters[l].next = 0;
    wake_workers(program);
    run_launches(program);
}

#ifdef __AMX_INT8__
#include "panels_check.h"
#endif
