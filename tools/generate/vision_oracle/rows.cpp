// Prints what llama.cpp's clip makes of pixels: rows_of_image MMPROJ WIDTH HEIGHT PIXELS OUT [FLASH]
// PIXELS: float32[HEIGHT, WIDTH, 3], normalised; OUT: float32[rows, width]
#include "clip.h"
#include "clip-impl.h"
#include <cstdio>
#include <cstdlib>
#include <vector>
int main(int argc, char **argv) {
    if (argc < 6) return 2;
    clip_context_params params = {};
    params.use_gpu = false;
    params.flash_attn_type = argc > 6 ? CLIP_FLASH_ATTN_TYPE_ENABLED : CLIP_FLASH_ATTN_TYPE_DISABLED;
    params.image_min_tokens = -1;
    params.image_max_tokens = -1;
    params.warmup = false;
    clip_init_result made = clip_init(argv[1], params);
    if (!made.ctx_v) return 3;
    const int width = atoi(argv[2]), height = atoi(argv[3]);
    std::vector<float> pixels((size_t) width * height * 3), rows;
    FILE *in = fopen(argv[4], "rb");
    if (!in || fread(pixels.data(), 4, pixels.size(), in) != pixels.size()) return 4;
    fclose(in);
    clip_image_f32 image;
    image.set_size({width, height}, false, false);
    image.cpy_buf(pixels);
    rows.resize((size_t) clip_n_output_tokens(made.ctx_v, &image) * clip_n_mmproj_embd(made.ctx_v));
    if (!clip_image_encode(made.ctx_v, 1, &image, rows)) return 5;
    FILE *out = fopen(argv[5], "wb");
    fwrite(rows.data(), 4, rows.size(), out);
    fclose(out);
    printf("%d %d\n", clip_n_output_tokens(made.ctx_v, &image), clip_n_mmproj_embd(made.ctx_v));
    return 0;
}
