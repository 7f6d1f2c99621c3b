#!/bin/sh
# Builds ./rows, which prints what llama.cpp's clip makes of pixels, of llama.cpp as architecture_oracle/make.sh built it.
# usage: make.sh LLAMA_CPP_SOURCES LLAMA_CPP_BUILD FOLDER
set -e
here=$(cd "$(dirname "$0")" && pwd) sources=$1 build=$2 folder=$3
mkdir -p "$folder/objects"
clip="$sources/tools/mtmd"
for file in "$clip/clip.cpp" "$clip"/models/*.cpp "$here/rows.cpp"; do
    object="$folder/objects/$(basename "$file").o"
    [ "$object" -nt "$file" ] ||
        nice -n 10 c++ -std=c++17 -O1 -I"$clip" -I"$clip/models" -I"$sources/ggml/include" -I"$sources/include" \
            -I"$sources/common" -I"$sources/vendor" -c "$file" -o "$object"
done
nice -n 10 c++ -o "$folder/rows" "$folder"/objects/*.o "$build/src/libllama.a" "$build/ggml/src/libggml.a" \
    "$build/ggml/src/libggml-cpu.a" "$build/ggml/src/libggml-base.a" -fopenmp -lpthread -ldl
