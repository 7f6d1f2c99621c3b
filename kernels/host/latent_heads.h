/* out[t] = queries and the key of latent attention: see compiler/ops/latent_heads.py.
 *
 * Constants: NUM_HEADS, RANK, TAIL_DIM, ABSORBED (queries have first parts; else these are 0). Arguments: tails of queries
 * float32[T, heads, TAIL_DIM], latent float32[T, RANK], the key's tail float32[T, TAIL_DIM], out float32[T, heads + 1,
 * RANK + TAIL_DIM], first parts of queries float32[T, heads, RANK]. A work item is one row.
 */
#include "vector.h"

static int32_t latent_heads_items(const struct step *step) { return step->num_tokens; }

static void latent_heads_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    const float *tails = arguments[0], *latent = arguments[1], *key_tail = arguments[2], *first = arguments[4];
    for (int32_t t = begin; t < end; t++) {
        float *out = (float *)arguments[3] + (size_t)t * ((NUM_HEADS + 1) * (RANK + TAIL_DIM));
        for (size_t head = (size_t)t * NUM_HEADS; head < (size_t)(t + 1) * NUM_HEADS; head++) {
            for (int32_t c = 0; c < RANK; c++) *out++ = ABSORBED ? first[head * RANK + c] : 0;
            for (int32_t c = 0; c < TAIL_DIM; c++) *out++ = tails[head * TAIL_DIM + c];
        }
        for (int32_t c = 0; c < RANK; c++) *out++ = latent[(size_t)t * RANK + c];
        for (int32_t c = 0; c < TAIL_DIM; c++) *out++ = key_tail[(size_t)t * TAIL_DIM + c];
    }
}
EXPORT const struct kernel SYMBOL = { latent_heads_items, latent_heads_run };
