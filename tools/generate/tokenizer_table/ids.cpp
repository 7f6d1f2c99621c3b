// What llama.cpp makes of texts and tokens, for `compare.py`.
//
//     ids VOCABULARY.gguf <texts
//
// Standard input holds texts, each after its length in bytes (uint32, little-endian). Standard output is lines: the
// special tokens by name and whether they are added, the tokens that end a generation, the bytes of each token in
// hexadecimal, a mark before what an answer leaves out; then, for each text, its ids without control tokens and with.
#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

static void quiet(ggml_log_level, const char *, void *)
{
}

static std::string piece(const llama_vocab *vocab, llama_token token, bool special)
{
    std::string text(64, '\0');
    int32_t size = llama_token_to_piece(vocab, token, text.data(), (int32_t)text.size(), 0, special);
    if (size < 0) {
        text.resize(-size);
        size = llama_token_to_piece(vocab, token, text.data(), (int32_t)text.size(), 0, special);
    }
    text.resize(size);
    return text;
}

static void describe(const llama_vocab *vocab)
{
    const std::pair<const char *, llama_token> named[] = {
        {"bos", llama_vocab_bos(vocab)},         {"eos", llama_vocab_eos(vocab)},
        {"eot", llama_vocab_eot(vocab)},         {"sep", llama_vocab_sep(vocab)},
        {"fim_pre", llama_vocab_fim_pre(vocab)}, {"fim_suf", llama_vocab_fim_suf(vocab)},
        {"fim_mid", llama_vocab_fim_mid(vocab)}, {"fim_pad", llama_vocab_fim_pad(vocab)},
        {"fim_rep", llama_vocab_fim_rep(vocab)}, {"fim_sep", llama_vocab_fim_sep(vocab)},
        {"add_bos", llama_vocab_get_add_bos(vocab)}, {"add_eos", llama_vocab_get_add_eos(vocab)},
        {"add_sep", llama_vocab_get_add_sep(vocab)},
    };
    for (const auto &[name, token] : named) {
        printf("%s=%d ", name, token);
    }
    printf("\n");
    const int32_t size = llama_vocab_n_tokens(vocab);
    for (llama_token token = 0; token < size; token++) {
        if (llama_vocab_is_eog(vocab, token)) {
            printf("%d ", token);
        }
    }
    printf("\n");
    for (llama_token token = 0; token < size; token++) {
        printf(piece(vocab, token, false).empty() ? "!" : ".");
        for (const char byte : piece(vocab, token, true)) {
            printf("%02x", (uint8_t)byte);
        }
        printf(" ");
    }
    printf("\n");
}

static void tokenize(const llama_vocab *vocab, const std::string &text, bool special, bool add)
{
    std::vector<llama_token> ids(text.size() + 8);
    const int32_t count =
        llama_tokenize(vocab, text.data(), (int32_t)text.size(), ids.data(), (int32_t)ids.size(), add, special);
    for (int32_t i = 0; i < count; i++) {
        printf("%d ", ids[i]);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        return 2;
    }
    llama_log_set(quiet, nullptr);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model *model = llama_model_load_from_file(argv[1], params);
    if (model == nullptr) {
        fprintf(stderr, "%s: llama.cpp does not take it\n", argv[1]);
        return 1;
    }
    const llama_vocab *vocab = llama_model_get_vocab(model);
    describe(vocab);
    tokenize(vocab, "a", false, true);
    uint32_t size;
    while (fread(&size, sizeof(size), 1, stdin) == 1) {
        std::string text(size, '\0');
        if (size != 0 && fread(text.data(), size, 1, stdin) != 1) {
            return 2;
        }
        tokenize(vocab, text, false, false);
        tokenize(vocab, text, true, false);
    }
    llama_model_free(model);
    return 0;
}
