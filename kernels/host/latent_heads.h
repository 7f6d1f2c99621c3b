/* out[t] = queries, keys and values of latent attention: see compiler/ops/latent_heads.py.
 *
 * Constants: NUM_HEADS, HEAD_DIM, TAIL_DIM (elements at a key's end that all heads share), VALUE_DIM.
 * Arguments: query float32[T, heads, HEAD_DIM], expanded float32[T, heads, HEAD_DIM - TAIL_DIM + VALUE_DIM], tail
 * float32[T, TAIL_DIM], out float32[T, heads * (2 * HEAD_DIM + VALUE_DIM)]. A work item is one row.
 */
#include "vector.h"

#define OWN (HEAD_DIM - TAIL_DIM)

static int32_t latent_heads_items(const struct step *step) { return step->num_tokens; }

static void latent_heads_run(const struct step *step, void *const *arguments, int32_t begin, int32_t end)
{
    (void)step;
    for (int32_t t = begin; t < end; t++) {
        const float *query = (const float *)arguments[0] + (size_t)t * (NUM_HEADS * HEAD_DIM);
        const float *expanded = (const float *)arguments[1] + (size_t)t * (NUM_HEADS * (OWN + VALUE_DIM));
        const float *tail = (const float *)arguments[2] + (size_t)t * TAIL_DIM;
        float *out = (float *)arguments[3] + (size_t)t * (NUM_HEADS * (2 * HEAD_DIM + VALUE_DIM));
        for (int32_t c = 0; c < NUM_HEADS * HEAD_DIM; c++) *out++ = query[c];
        for (int32_t head = 0; head < NUM_HEADS; head++) {
            for (int32_t c = 0; c < OWN; c++) *out++ = expanded[head * (OWN + VALUE_DIM) + c];
            for (int32_t c = 0; c < TAIL_DIM; c++) *out++ = tail[c];
        }
        for (int32_t head = 0; head < NUM_HEADS; head++)
            for (int32_t c = 0; c < VALUE_DIM; c++) *out++ = expanded[head * (OWN + VALUE_DIM) + OWN + c];
    }
}
EXPORT const struct kernel SYMBOL = { latent_heads_items, latent_heads_run };
