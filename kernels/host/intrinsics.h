/* Intrinsics of AVX2 and AVX-512. All that <immintrin.h> has takes longer to read than most kernels to compile, so of
 * clang's only the parts in use are read, each behind those that it needs; their guards ask for the macro of the whole. */
#ifndef ROCMFORGE_INTRINSICS_H
#define ROCMFORGE_INTRINSICS_H

#ifdef __clang__
#define __IMMINTRIN_H
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#ifdef __AVX512F__
#include <avx512fintrin.h>
#include <avx512bwintrin.h>
#include <avx512vnniintrin.h>
#endif
#else
#include <immintrin.h>
#endif

#endif
