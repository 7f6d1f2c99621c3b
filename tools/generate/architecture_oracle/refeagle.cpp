// refeagle model.gguf head.gguf ids.json out.json : what llama.cpp makes of EAGLE 3 heads.
// ids.json: {"ids":[...], "drafts":n}. First the model reads all ids; then its head each but the first, beside what it
// makes of the model's hidden states at the one before; then it drafts n tokens, the most likely each, from states of its own.
// out.json: {"logits":[[...]], "drafts":[...], "draft_logits":[[...]]}; minus infinity is null.
#include "oracle.h"
#include "llama-ext.h"
#include <algorithm>
using floats = std::vector<float>;

int main(int c, char **v)
{
    if (c < 5) return 1;
    llama_model *m = load(v[1], false), *h = load(v[2], false);
    if (!m || !h) return 2;
    const int V = llama_vocab_n_tokens(llama_model_get_vocab(m)), E = llama_model_n_embd(m), D = llama_model_n_embd(h);
    json in, out;
    std::ifstream(v[3]) >> in;
    std::vector<int> ids = in["ids"];
    const int n = ids.size(), layers = llama_model_target_layer_ids_n(h);
    llama_context *trunk = llama_init_from_model(m, context_params());
    auto cp = context_params();
    cp.ctx_other = trunk;
    llama_context *head = trunk ? llama_init_from_model(h, cp) : nullptr;
    if (!trunk || !head) return 3;
    for (int k = 0; k < layers; k++) llama_set_embeddings_layer_inp(trunk, llama_model_target_layer_ids(h)[k], true);
    llama_set_embeddings_nextn(head, true, true);

    auto *batch = llama_batch_ext_init(trunk);
    for (llama_pos i = 0; i < n; i++) {
        const int at = llama_batch_ext_add_token(batch, 0, ids[i]);
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
    }
    if (llama_process(trunk, LLAMA_PROCESS_TYPE_DECODE, batch)) return 4;
    floats given((size_t)n * layers * E);
    for (int k = 0; k < layers; k++) {
        const float *rows = llama_get_embeddings_layer_inp(trunk, llama_model_target_layer_ids(h)[k]);
        for (int i = 0; i < n; i++) std::copy_n(rows + (size_t)i * E, E, given.data() + ((size_t)i * layers + k) * E);
    }
    llama_batch_ext_free(batch);
    batch = llama_batch_ext_init(head);
    for (llama_pos i = 0; i < n; i++) {
        const int at = llama_batch_ext_add_embd(batch, 0, { given.data() + (size_t)i * layers * E, 1, (size_t)layers * E });
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
    }
    if (llama_process(head, LLAMA_PROCESS_TYPE_ENCODE, batch)) return 5;
    const float *made = llama_get_embeddings_nextn(head);
    const floats fused(made, made + (size_t)n * D);
    llama_batch_ext_clear(batch);
    for (llama_pos i = 0; i < n - 1; i++) {
        const int at = llama_batch_ext_add_token(batch, 0, ids[i + 1]);
        llama_batch_ext_set_embd_token(batch, at, { fused.data() + (size_t)i * D, 1, (size_t)D });
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
    }
    if (llama_process(head, LLAMA_PROCESS_TYPE_DECODE, batch)) return 6;
    std::vector<floats> logits, draft_logits;
    for (int i = 0; i < n - 1; i++) {
        const float *l = llama_get_logits_ith(head, i);
        logits.emplace_back(l, l + V);
    }
    std::vector<int> drafts;
    const float *s = llama_get_embeddings_nextn_ith(head, n - 2);
    floats state(s, s + D), last = logits.back();
    for (llama_pos i = n - 1; i < n - 1 + in["drafts"].get<int>(); i++) {
        drafts.push_back(std::max_element(last.begin(), last.end()) - last.begin());
        llama_batch_ext_clear(batch);
        const int at = llama_batch_ext_add_token(batch, 0, drafts.back());
        llama_batch_ext_set_embd_token(batch, at, { state.data(), 1, (size_t)D });
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
        if (llama_process(head, LLAMA_PROCESS_TYPE_DECODE, batch)) return 7;
        const float *l = llama_get_logits_ith(head, 0);
        last.assign(l, l + V);
        draft_logits.push_back(last);
        s = llama_get_embeddings_nextn_ith(head, 0);
        state.assign(s, s + D);
    }
    out["logits"] = logits;
    out["drafts"] = drafts;
    out["draft_logits"] = draft_logits;
    std::ofstream(v[4]) << out.dump() << "\n";
    llama_free(head);
    llama_free(trunk);
    llama_model_free(h);
    llama_model_free(m);
    return 0;
}
