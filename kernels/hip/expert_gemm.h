/* Many tokens: what expert_gemv.h does, bit for bit, 64 rows of an expert by 64 tokens that go to it a workgroup.
 *
 * Constants and arguments as in expert_gemv.h, but ROW_TILES; TILE_GROUPS of 64 rows. Grid: x = EXPERTS * TILE_GROUPS,
 * y = tokens * REPEATS / 64: a token goes to an expert so often at most, once if it is not given; GEMM_WAVES waves.
 * Workgroups whose expert has not so many leave once they have counted.
 */
#include "prelude.h"

static __shared__ int32_t pairs[64]; /* token * USED + slot of those that this workgroup computes */
#define ROW_OF_TOKEN(token) (EACH ? pairs[token] : pairs[token] / USED)
#include "gemm_tile.h"
#include "expert_epilogue.h"
#ifndef REPEATS
#define REPEATS 1
#endif

/* The sum of x over the lanes before this one, and of all lanes. */
INLINE int32_t lanes_before(int32_t x, int32_t *all)
{
    int32_t before = 0, other;
#define STEP_OF_SCAN(width)                                                                                            \
    other = shuffle_xor<width>(x);                                                                                     \
    before += lane_index() & width ? other : 0;                                                                        \
    x += other
    STEP_OF_SCAN(1);
    STEP_OF_SCAN(2);
    STEP_OF_SCAN(4);
    STEP_OF_SCAN(8);
    STEP_OF_SCAN(16);
    if (WAVE_SIZE == 64) {
        STEP_OF_SCAN(32);
    }
    *all = x;
    return before;
}

/* Write into `pairs` those of the expert from its `first` on, in the order of tokens; returns how many, at most 64. */
INLINE int32_t gather(const GLOBAL_MEMORY float *routed, int32_t tokens, int32_t expert, int32_t first)
{
    __shared__ int32_t of_waves[GEMM_WAVES];
    int32_t found = 0;
    if (BY_SLOT) {
        if (thread_index() < 64) pairs[thread_index()] = (first + thread_index()) * USED + expert;
        __syncthreads();
        return int_min(tokens - first, 64);
    }
    NO_UNROLL_FOR (int32_t base = 0; base < tokens && found < first + 64; base += THREADS) {
        const int32_t token = base + thread_index();
        uint32_t slots = 0; /* a bit each */
        int32_t all;
        if (token < tokens)
            UNROLL_FOR (int j = 0; j < USED; j++)
                if ((int32_t)routed[(size_t)token * (2 * USED) + USED + j] == expert) slots |= 1u << j;
        int32_t at = found + lanes_before(__builtin_popcount(slots), &all);
        of_waves[wave_index()] = all;
        __syncthreads();
        UNROLL_FOR (int w = 0; w < GEMM_WAVES; w++) {
            at += w < wave_index() ? of_waves[w] : 0;
            found += of_waves[w];
        }
        for (; slots; slots &= slots - 1, at++)
            if (at >= first && at < first + 64) pairs[at - first] = token * USED + __builtin_ctz(slots);
        __syncthreads();
    }
    return int_min(uniform_int(found) - first, 64);
}

KERNEL(THREADS) SYMBOL(KERNEL_ARGUMENTS)
{
    __shared__ struct stage stage;
    const int32_t first = group_y() * 64, tokens = STEP->num_tokens, expert = group_x() / TILE_GROUPS;
    if (first >= tokens * REPEATS) return;
    const int32_t count = gather((const GLOBAL_MEMORY float *)a2, tokens, expert, first);
    if (count <= 0) return;
    const int32_t row = expert * ROWS, last = (row + ROWS - 1) / 32, start = row / 32 + group_x() % TILE_GROUPS * 2;
    if (start > last) return;
    weight_pointer tile = (weight_pointer)a0 + (size_t)start * TILE_BYTES;
    const uint32_t second = start < last ? TILE_BYTES : 0; /* past the last tile: the last one again, not stored */
    const int32_t row0 = wave_index() % 2 * 32, token0 = wave_index() / 2 * WAVE_TOKENS;
    struct totals sums;
    multiply_tiles(&stage, tile, second, (activation_pointer)a1, count, row0, token0, &sums);
    UNROLL_FOR (int t = 0; t < LANE_TOKENS; t++) {
        const int32_t token = token0 + token_of_slot(lane_slot(t));
        UNROLL_FOR (int i = 0; i < LANE_ROWS; i++) {
            const int32_t r = 32 * start + row0 + lane_row(i) - row;
            if (token < count && r >= 0 && r < ROWS)
                store_product(sums.all[i][t], pairs[token], expert, r, a2, a3, a4, a5);
        }
    }
}
