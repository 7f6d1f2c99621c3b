// reflogits model.gguf ids.json out.json [adapter.gguf scale]... : llama.cpp's logits at the last position of each prefix.
// ids.json: {"ids":[...], "prefixes":[n,...]}.
#include "oracle.h"

int main(int c, char **v)
{
    if (c < 4) return 1;
    llama_model *m = load(v[1], false);
    if (!m) {
        fprintf(stderr, "no model\n");
        return 2;
    }
    std::vector<llama_adapter_lora *> adapters;
    std::vector<float> scales;
    for (int i = 4; i + 1 < c; i += 2) {
        adapters.push_back(llama_adapter_lora_init(m, v[i]));
        scales.push_back(std::stof(v[i + 1]));
        if (!adapters.back()) {
            fprintf(stderr, "no adapter\n");
            return 7;
        }
    }
    const llama_vocab *vo = llama_model_get_vocab(m);
    int V = llama_vocab_n_tokens(vo);
    json in;
    std::ifstream(v[2]) >> in;
    std::vector<int> ids = in["ids"];
    json out;
    out["n_vocab"] = V;
    out["n_embd"] = llama_model_n_embd(m);
    char desc[256];
    llama_model_desc(m, desc, sizeof desc);
    out["desc"] = desc;
    out["encoder"] = llama_model_has_encoder(m);
    out["decoder"] = llama_model_has_decoder(m);
    out["recurrent"] = llama_model_is_recurrent(m);
    out["hybrid"] = llama_model_is_hybrid(m);
    for (auto &pn : in["prefixes"]) {
        int n = pn;
        llama_context *x = llama_init_from_model(m, context_params());
        if (!x) {
            fprintf(stderr, "no context\n");
            return 3;
        }
        llama_set_adapters_lora(x, adapters.data(), adapters.size(), scales.data());
        llama_batch b = llama_batch_init(128, 0, 1);
        b.n_tokens = n;
        for (int i = 0; i < n; i++) {
            b.token[i] = ids[i] % V;
            b.pos[i] = i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = i == n - 1;
        }
        int rc = llama_decode(x, b);
        if (rc) {
            fprintf(stderr, "decode %d\n", rc);
            return 4;
        }
        const float *l = llama_get_logits_ith(x, n - 1);
        if (!l) {
            fprintf(stderr, "no logits\n");
            return 5;
        }
        out["logits"][std::to_string(n)] = std::vector<float>(l, l + V);
        // The same prefix one token at a time
        llama_memory_clear(llama_get_memory(x), true);
        for (int i = 0; i < n; i++) {
            b.n_tokens = 1;
            b.token[0] = ids[i] % V;
            b.pos[0] = i;
            b.n_seq_id[0] = 1;
            b.seq_id[0][0] = 0;
            b.logits[0] = 1;
            if (llama_decode(x, b)) {
                fprintf(stderr, "step %d\n", i);
                return 6;
            }
        }
        l = llama_get_logits_ith(x, 0);
        out["stepwise"][std::to_string(n)] = std::vector<float>(l, l + V);
        llama_batch_free(b);
        llama_free(x);
    }
    std::ofstream(v[3]) << out.dump() << "\n";
    llama_model_free(m);
    return 0;
}
