// What refdrafts and reflogits ask of llama.cpp alike: warnings alone in the log, no repacked weights, an f32 KV cache of
// 128 tokens, flash attention off, 1 thread.
#pragma once
#include "llama.h"
#include <nlohmann/json.hpp>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>
using json = nlohmann::json;

static llama_model *load(const char *path, bool with_drafts)
{
    llama_log_set(
        [](ggml_log_level level, const char *text, void *) {
            if (level >= GGML_LOG_LEVEL_WARN) fputs(text, stderr);
        },
        nullptr);
    llama_backend_init();
    auto params = llama_model_default_params();
    params.use_extra_bufts = false;
    params.load_mtp = with_drafts;
    return llama_model_load_from_file(path, params);
}

static llama_context_params context_params()
{
    auto params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = 128;
    params.n_threads = params.n_threads_batch = 1;
    params.no_perf = true;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.swa_full = true;
    return params;
}
