// What the processors and the memory of this machine give at most: threads read memory together, over and over; then
// each multiplies in its registers. Compiled for the very machine that it runs on.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { ROUNDS = 256, CHAINS = 12, MAX_THREADS = 256 };

typedef struct {
    const char *data;
    size_t bytes;
    double seconds, rate;
    double (*work)(const char *data, size_t bytes);
    pthread_barrier_t *start;
} Job;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + 1e-9 * at.tv_nsec;
}

// Reads all bytes once; returns their number.
static double read_all(const char *data, size_t bytes)
{
    for (size_t at = 0; at + 256 <= bytes; at += 256) {
#if defined(__AVX512F__)
        __asm__ volatile("vmovups (%0), %%zmm0\n vmovups 64(%0), %%zmm1\n vmovups 128(%0), %%zmm2\n"
                         "vmovups 192(%0), %%zmm3\n" ::"r"(data + at)
                         : "xmm0", "xmm1", "xmm2", "xmm3");
#else
        for (int i = 0; i < 256; i += 8) {
            unsigned long long word;
            memcpy(&word, data + at + i, 8);
            __asm__ volatile("" ::"r"(word));
        }
#endif
    }
    return bytes;
}

#if defined(__AVX512F__)
typedef __m512 Floats;
typedef __m512i Integers;
#define FMA "vfmadd231ps %1, %1, %0"
#if defined(__AVX512VNNI__)
#define DOT "vpdpbusd %1, %1, %0"
#endif
#elif defined(__AVX2__) && defined(__FMA__)
typedef __m256 Floats;
typedef __m256i Integers;
#define FMA "vfmadd231ps %1, %1, %0"
#if defined(__AVXVNNI__)
#define DOT "{vex} vpdpbusd %1, %1, %0"
#endif
#endif

// Each of CHAINS accumulators waits for itself alone: more than any of these processors needs to hide the latency.
#define CHAINED(type, instruction)                                                                                     \
    type sums[CHAINS] = { 0 }, factor = { 0 };                                                                         \
    for (int round = 0; round < ROUNDS; ++round) {                                                                     \
        _Pragma("clang loop unroll(full)") for (int i = 0; i < CHAINS;                                                 \
                                                ++i) __asm__ volatile(instruction : "+v"(sums[i]) : "v"(factor));      \
    }                                                                                                                  \
    for (int i = 0; i < CHAINS; ++i) __asm__ volatile("" ::"v"(sums[i]));

#if defined(FMA)
static double multiply_floats(const char *data, size_t bytes)
{
    (void)data, (void)bytes;
    CHAINED(Floats, FMA)
    return 2.0 * ROUNDS * CHAINS * (sizeof(Floats) / 4);
}
#else
#define multiply_floats NULL
#endif

#if defined(DOT)
static double multiply_bytes(const char *data, size_t bytes)
{
    (void)data, (void)bytes;
    CHAINED(Integers, DOT)
    return 2.0 * ROUNDS * CHAINS * sizeof(Integers);
}
#elif defined(__AVX2__)
// Without dot products, as kernels do: pairs to 16 bits, these to 32, and a sum.
static double multiply_bytes(const char *data, size_t bytes)
{
    (void)data, (void)bytes;
    __m256i ones = _mm256_set1_epi16(1);
#define PAIRS "vpmaddubsw %1, %1, %%ymm15\n vpmaddwd %1, %%ymm15, %%ymm15\n vpaddd %%ymm15, %0, %0"
    __m256i sums[CHAINS] = { 0 };
    for (int round = 0; round < ROUNDS; ++round) {
        _Pragma("clang loop unroll(full)") for (int i = 0; i < CHAINS;
                                                ++i) __asm__ volatile(PAIRS : "+x"(sums[i]) : "x"(ones) : "xmm15");
    }
    for (int i = 0; i < CHAINS; ++i) __asm__ volatile("" ::"x"(sums[i]));
    return 2.0 * ROUNDS * CHAINS * 32;
}
#else
#define multiply_bytes NULL
#endif

#if defined(__AMX_INT8__)
// The kernel gives a process its tiles only where it asks (arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)).
static int tiles_allowed(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// Four sums of two by two tiles of 16 rows by 64 bytes, as a matrix product has them.
static double multiply_tiles(const char *data, size_t bytes)
{
    (void)data, (void)bytes;
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short row_bytes[16];
        unsigned char rows[16];
    } __attribute__((packed)) shape = { .palette = 1 };
    for (int i = 0; i < 8; ++i) shape.row_bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
    _tile_zero(4), _tile_zero(5), _tile_zero(6), _tile_zero(7);
    _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
    for (int round = 0; round < ROUNDS; ++round) {
        _tile_dpbssd(0, 4, 6), _tile_dpbssd(1, 4, 7), _tile_dpbssd(2, 5, 6), _tile_dpbssd(3, 5, 7);
    }
    _tile_release();
    return 2.0 * ROUNDS * 4 * 16 * 16 * 64;
}
#else
static int tiles_allowed(void) { return 0; }
#define multiply_tiles NULL
#endif

static void *run(void *given)
{
    Job *job = given;
    job->work(job->data, job->bytes);  // pages and clocks
    pthread_barrier_wait(job->start);
    double began = now(), passed = 0, done = 0;
    while ((passed = now() - began) < job->seconds) done += job->work(job->data, job->bytes);
    job->rate = done / passed;
    return NULL;
}

// Returns what the threads do a second together, in 1e9; negative: they cannot.
static double together(int threads, const char *data, size_t bytes, double seconds,
                       double (*work)(const char *, size_t))
{
    Job jobs[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    pthread_barrier_t start;
    int began = 0;
    double rate = 0;
    if (work == NULL || pthread_barrier_init(&start, NULL, threads)) return -1;
    for (; began < threads; ++began) {
        size_t part = bytes / threads;
        jobs[began] =
            (Job){ .data = data + began * part, .bytes = part, .seconds = seconds, .work = work, .start = &start };
        if (pthread_create(&ids[began], NULL, run, &jobs[began])) abort();  // those that began wait for it
    }
    for (int i = 0; i < began; ++i) pthread_join(ids[i], NULL), rate += jobs[i].rate;
    pthread_barrier_destroy(&start);
    return 1e-9 * rate;
}

// Fills rates: of bytes read, of multiplications and additions in float32, in int8 without tiles, in int8 with them,
// all in 1e9 a second of all threads; negative where there are none of this kind. Returns 0, or -1 without memory.
int probe(int threads, size_t bytes, double seconds, double rates[4])
{
    if (threads < 1 || threads > MAX_THREADS) return -1;
    char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return -1;
    madvise(data, bytes, MADV_HUGEPAGE);  // the memory's limit, not the page tables'
    memset(data, 1, bytes);
    rates[0] = together(threads, data, bytes, seconds, read_all);
    rates[1] = together(threads, data, 0, seconds, multiply_floats);
    rates[2] = together(threads, data, 0, seconds, multiply_bytes);
    rates[3] = tiles_allowed() ? together(threads, data, 0, seconds, multiply_tiles) : -1;
    munmap(data, bytes);
    return 0;
}
