/* out[t, OUT_OFFSET + j * ROWS + r] = sum over c of weight[e * ROWS + r, c] * x[c], e the number of the j-th expert that
 * token t goes to; times the expert's scale, times its weight for the token, plus its bias, where there are such.
 *
 * Constants: EXPERTS, USED, ROWS (of an expert), COLUMNS, ACTIVATION_BYTES (of COLUMNS), X_SUPER (1: int8 superblocks,
 * else blocks), EACH (1: a token has a row of x for each of its experts), OUT_STRIDE, OUT_OFFSET, HAS_BIAS, HAS_SCALE,
 * WEIGHTED. BY_SLOT (where it is given): a token goes to all experts, in their order, and nothing routes. AT_OUTPUT_ROWS
 * where only tokens are computed of which outputs are read.
 * Arguments: weights, activations, routed float32[T, 2 * USED], out float32[T, OUT_STRIDE], bias
 * float32[EXPERTS * ROWS], scale float32[EXPERTS].
 *
 * A pair is a token and one of its experts, numbered t * USED + j. A work item is some tiles of an expert for all of its
 * pairs, so that its weights are read once, and those of experts that nobody goes to never. Where there are fewer pairs
 * than experts, items are by pair: the first with an expert takes the others of it along.
 */
#include "weights.h"

#ifndef BY_SLOT
#define BY_SLOT 0
#endif
#define TOKEN_TILE (HAS_PANELS ? PANEL_TOKENS - 1 : TILE_TOKENS)
#define STRIP 4 /* tiles of an item: what is gathered is read that often */
#define TILES ((ROWS + 15) / 16 + (ROWS % 16 != 0)) /* an expert may begin within a tile */
#define STRIPS ((TILES + STRIP - 1) / STRIP)

static int32_t expert_matmul_items(const struct step *step)
{
    return int_min(OUTPUT_COUNT(step) * USED, EXPERTS) * STRIPS;
}

/* The i-th pair of the tokens that are computed. */
INLINE int32_t pair_at(const struct step *step, int32_t i) { return made_row(step, i / USED) * USED + i % USED; }

INLINE int32_t expert_of(const float *routed, int32_t pair)
{
    return BY_SLOT ? pair % USED : (int32_t)routed[(size_t)(pair / USED) * (2 * USED) + USED + pair % USED];
}

struct gathered {
    int32_t pairs[TOKEN_TILE];
    int count;
    const char *x; /* their rows, one behind the other */
};

INLINE const char *row_of(const char *x, int32_t pair)
{
    return x + (size_t)(EACH ? pair : pair / USED) * ACTIVATION_BYTES;
}

/* The next pairs of an expert, of all `pairs` those from the one at `from` on; returns where to go on. */
INLINE int32_t gather(const struct step *step, const float *routed, int32_t pairs, int32_t expert, int32_t from,
                      const char *x, char *rows, struct gathered *next)
{
    next->count = 0;
    for (; from < pairs && next->count < TOKEN_TILE; from += BY_SLOT ? USED : 1) {
        const int32_t pair = pair_at(step, from);
        if (expert_of(routed, pair) == expert) next->pairs[next->count++] = pair;
    }
    next->x = next->count ? row_of(x, next->pairs[0]) : rows;
    if (next->count > 1) {
        for (int i = 0; i < next->count; i++)
            __builtin_memcpy(rows + (size_t)i * ACTIVATION_BYTES, row_of(x, next->pairs[i]), ACTIVATION_BYTES);
        next->x = rows;
    }
    return from;
}

INLINE void store_tile(f32x16 sum, int32_t expert, int32_t pair, int32_t first, void *const *arguments)
{
    const float *routed = (const float *)arguments[2] + (size_t)(pair / USED) * (2 * USED);
    float *out = (float *)arguments[3] + (size_t)(pair / USED) * OUT_STRIDE + OUT_OFFSET + pair % USED * ROWS;
    const float *bias = (const float *)arguments[4] + (size_t)expert * ROWS;
    if (HAS_SCALE) sum *= ((const float *)arguments[5])[expert];
    if (WEIGHTED) sum *= routed[pair % USED];
    for (int32_t r = first < 0 ? -first : 0; r < int_min(16, ROWS - first); r++)
        out[first + r] = HAS_BIAS ? sum[r] + bias[first + r] : sum[r];
}

INLINE void multiply_gathered(const uint8_t *tile, int32_t expert, int32_t first, const struct gathered *taken,
                              void *const *arguments)
{
    f32x16 sums[TOKEN_TILE];
    multiply_tile(tile, taken->x, taken->count, sums);
    for (int i = 0; i < taken->count; i++) store_tile(sums[i], expert, taken->pairs[i], first, arguments);
}

static void expert_matmul_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    char rows[TOKEN_TILE * (size_t)ACTIVATION_BYTES] __attribute__((aligned(64)));
    const float *routed = (const float *)arguments[2];
    const int32_t pairs = OUTPUT_COUNT(step) * USED;
    for (int32_t item = begin; item < end; item++) {
        const int32_t group = item / STRIPS, strip = item % STRIPS;
        const int32_t expert = pairs < EXPERTS ? expert_of(routed, pair_at(step, group)) : group;
        int32_t from = BY_SLOT ? expert : 0;
        if (pairs < EXPERTS) {
            while (expert_of(routed, pair_at(step, from)) != expert) from++;
            if (from < group) continue; /* an earlier pair takes this one along */
        }
        const int32_t row = expert * ROWS, tile0 = row / 16, last = (row + ROWS - 1) / 16;
        while (from < pairs) {
            struct gathered next;
            from = gather(step, routed, pairs, expert, from, (const char *)arguments[1], rows, &next);
            for (int32_t t = tile0 + strip * STRIP; next.count && t <= int_min(last, tile0 + strip * STRIP + STRIP - 1);
                 t++)
                multiply_gathered((const uint8_t *)arguments[0] + (size_t)t * TILE_BYTES, expert, 16 * t - row, &next,
                                  arguments);
        }
    }
}
EXPORT const struct kernel SYMBOL = { expert_matmul_items, expert_matmul_run };
