// refdrafts model.gguf ids.json out.json : what llama.cpp makes of blocks that draft tokens (multi-token prediction).
// ids.json: {"ids":[...], "drafts":n}. First the model reads all ids; then its block does, each beside the hidden state of
// the token before it, zeros for the first; then it drafts n tokens, the most likely each, from hidden states of its own.
// out.json: {"hidden":[[...]], "logits":[[...]], "drafts":[...], "draft_logits":[[...]]}
#include "oracle.h"
#include "llama-ext.h"
#include <algorithm>
using floats = std::vector<float>;

static llama_context *context(llama_model *model, bool drafts, llama_context *other)
{
    auto cp = context_params();
    if (drafts) {
        cp.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
        cp.ctx_other = other;
    }
    return llama_init_from_model(model, cp);
}

int main(int c, char **v)
{
    if (c < 4) return 1;
    llama_model *m = load(v[1], true);
    if (!m) return 2;
    const int V = llama_vocab_n_tokens(llama_model_get_vocab(m)), E = llama_model_n_embd(m);
    json in, out;
    std::ifstream(v[2]) >> in;
    std::vector<int> ids = in["ids"];
    const int n = ids.size();
    llama_context *trunk = context(m, false, nullptr), *block = trunk ? context(m, true, trunk) : nullptr;
    if (!trunk || !block) return 3;
    llama_set_embeddings_nextn(trunk, true, false);
    llama_set_embeddings_nextn(block, true, true);

    auto *batch = llama_batch_ext_init(trunk);
    for (llama_pos i = 0; i < n; i++) {
        const int at = llama_batch_ext_add_token(batch, 0, ids[i]);
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
    }
    if (llama_process(trunk, LLAMA_PROCESS_TYPE_DECODE, batch)) return 4;
    std::vector<floats> hidden;
    for (int i = 0; i < n; i++) {
        const float *h = llama_get_embeddings_nextn_ith(trunk, i);
        hidden.emplace_back(h, h + E);
    }
    llama_batch_ext_free(batch);
    batch = llama_batch_ext_init(block);
    const floats zeros(E, 0.0f);
    for (llama_pos i = 0; i < n; i++) {
        const int at = llama_batch_ext_add_token(batch, 0, ids[i]);
        const float *h = i ? hidden[i - 1].data() : zeros.data();
        llama_batch_ext_set_embd_token(batch, at, { h, 1, (size_t)E });
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
    }
    if (llama_process(block, LLAMA_PROCESS_TYPE_DECODE, batch)) return 5;
    std::vector<floats> logits, draft_logits;
    for (int i = 0; i < n; i++) {
        const float *l = llama_get_logits_ith(block, i);
        logits.emplace_back(l, l + V);
    }
    std::vector<int> drafts;
    const float *h = llama_get_embeddings_nextn_ith(block, n - 1);
    floats state(h, h + E);
    floats last = logits.back();
    for (llama_pos i = n; i < n + in["drafts"].get<int>(); i++) {
        drafts.push_back(std::max_element(last.begin(), last.end()) - last.begin());
        llama_batch_ext_clear(batch);
        const int at = llama_batch_ext_add_token(batch, 0, drafts.back());
        llama_batch_ext_set_embd_token(batch, at, { state.data(), 1, (size_t)E });
        llama_batch_ext_set_pos(batch, at, &i);
        llama_batch_ext_set_output_logits(batch, at, true);
        if (llama_process(block, LLAMA_PROCESS_TYPE_DECODE, batch)) return 6;
        const float *l = llama_get_logits_ith(block, 0);
        last.assign(l, l + V);
        draft_logits.push_back(last);
        h = llama_get_embeddings_nextn_ith(block, 0);
        state.assign(h, h + E);
    }
    out["hidden"] = hidden;
    out["logits"] = logits;
    out["drafts"] = drafts;
    out["draft_logits"] = draft_logits;
    std::ofstream(v[3]) << out.dump() << "\n";
    llama_free(block);
    llama_free(trunk);
    llama_model_free(m);
    return 0;
}
