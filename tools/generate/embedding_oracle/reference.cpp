// reference MODEL.gguf: llama.cpp's embedding, or scores, of each line of standard input; a line of JSON each.
// Keys and values in float32, one thread, no flash attention; specials as the model adds them.
#include "llama.h"
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

static int fail(const char *what)
{
    fprintf(stderr, "reference: %s\n", what);
    return 1;
}

int main(int count, char **arguments)
{
    if (count != 2) return fail("expected a model");
    llama_log_set([](ggml_log_level level, const char *text, void *) { if (level >= GGML_LOG_LEVEL_ERROR) fputs(text, stderr); }, nullptr);
    llama_backend_init();
    auto model_parameters = llama_model_default_params();
    model_parameters.use_extra_bufts = false;
    llama_model *model = llama_model_load_from_file(arguments[1], model_parameters);
    if (!model) return fail("the model does not load");
    const llama_vocab *vocab = llama_model_get_vocab(model);
    auto parameters = llama_context_default_params();
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512;
    parameters.n_threads = parameters.n_threads_batch = 1;
    parameters.embeddings = true;
    parameters.type_k = parameters.type_v = GGML_TYPE_F32;
    parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    for (std::string line; std::getline(std::cin, line);) {
        llama_context *context = llama_init_from_model(model, parameters);
        if (!context) return fail("no context");
        std::vector<llama_token> tokens(line.size() + 16);
        const int n = llama_tokenize(vocab, line.data(), line.size(), tokens.data(), tokens.size(), true, true);
        if (n < 1 || n > 512) return fail("a line of 1 to 512 tokens was expected");
        llama_batch batch = llama_batch_init(n, 0, 1);
        batch.n_tokens = n;
        for (int i = 0; i < n; i++) {
            batch.token[i] = tokens[i];
            batch.pos[i] = i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch)) return fail("the model does not run");
        const bool ranks = llama_pooling_type(context) == LLAMA_POOLING_TYPE_RANK;
        const int size = ranks ? llama_model_n_cls_out(model) : llama_model_n_embd_out(model);
        const float *values = llama_get_embeddings_seq(context, 0);
        if (!values) return fail("no embedding");
        printf("{\"tokens\": [");
        for (int i = 0; i < n; i++) printf("%s%d", i ? ", " : "", tokens[i]);
        printf("], \"values\": [");
        for (int i = 0; i < size; i++) printf("%s%.9g", i ? ", " : "", values[i]);
        printf("]}\n");
        llama_batch_free(batch);
        llama_free(context);
    }
    llama_model_free(model);
    return 0;
}
