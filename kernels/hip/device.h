/* The GPU as the kernels see it: the usual HIP names and a few instructions, made of compiler builtins.
 *
 * No ROCm header and no device library, so any clang that knows the target builds it (-nogpuinc -nogpulib).
 * Constants: WAVE_SIZE (32 or 64), and where dot4 is used DOT_SUDOT4, DOT_SDOT4 or DOT_NONE.
 */
#ifndef ROCMFORGE_DEVICE_H
#define ROCMFORGE_DEVICE_H

typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __SIZE_TYPE__ size_t;

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))

/* Address spaces: pointers that say where they point spare the slow flat instructions. What a kernel only reads, at
 * an address that all lanes share, goes through CONSTANT_MEMORY: one scalar load serves the wave. */
#define GLOBAL_MEMORY __attribute__((address_space(1)))
#define CONSTANT_MEMORY __attribute__((address_space(4)))

#define INLINE static inline __attribute__((device, always_inline))
#define INLINE_MEMBER __attribute__((device, always_inline))
#define KERNEL(threads) extern "C" __global__ __attribute__((amdgpu_flat_work_group_size(threads, threads))) void
/* Loops as the compiler is told to make them. */
#define UNROLL_FOR(...) _Pragma("unroll") for (__VA_ARGS__)
#define UNROLL_2_FOR(...) _Pragma("unroll 2") for (__VA_ARGS__)
#define NO_UNROLL_FOR(...) _Pragma("nounroll") for (__VA_ARGS__)

INLINE int32_t thread_index() { return (int32_t)__builtin_amdgcn_workitem_id_x(); }
INLINE int32_t group_x() { return (int32_t)__builtin_amdgcn_workgroup_id_x(); }
INLINE int32_t group_y() { return (int32_t)__builtin_amdgcn_workgroup_id_y(); }
INLINE int32_t group_z() { return (int32_t)__builtin_amdgcn_workgroup_id_z(); }
INLINE int32_t lane_index() { return thread_index() % WAVE_SIZE; }
/* Says of a value that it is the same in all lanes; the compiler then keeps it in a scalar register. */
INLINE int32_t uniform_int(int32_t x) { return __builtin_amdgcn_readfirstlane(x); }
INLINE int32_t wave_index() { return uniform_int(thread_index() / WAVE_SIZE); }

/* No instruction is moved across, which bounds the registers that loads far ahead would take. */
#define SCHEDULING_FENCE() __builtin_amdgcn_sched_barrier(0)

/* What is read through the uniform `pointer` from here on waits for `value` (a float of the lane): without it the
 * compiler issues scalar loads ahead until it must spill. No instruction. */
#define READ_AFTER(pointer, value) __asm__("" : "+s"(pointer), "+v"(value))

/* All threads of the workgroup, and what each wrote before is seen by all after. */
INLINE void __syncthreads()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
/* The same among the lanes of one wave, which run in step: for LDS that only this wave touches. */
INLINE void sync_wave()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

/* The value of lane (own ^ MASK), MASK a power of two below WAVE_SIZE. */
template <int MASK> INLINE int32_t shuffle_xor(int32_t x)
{
    if (MASK < 32) return __builtin_amdgcn_ds_swizzle(x, (MASK & 31) << 10 | 31);
    return __builtin_amdgcn_ds_bpermute(4 * (lane_index() ^ MASK), x);
}
template <int MASK> INLINE float shuffle_xor(float x)
{
    return __builtin_bit_cast(float, shuffle_xor<MASK>(__builtin_bit_cast(int32_t, x)));
}

/* c + the sum of the products of four signed bytes. */
#if defined(DOT_SUDOT4)
INLINE int32_t dot4(int32_t a, int32_t b, int32_t c) { return __builtin_amdgcn_sudot4(true, a, true, b, c, false); }
#elif defined(DOT_SDOT4)
INLINE int32_t dot4(int32_t a, int32_t b, int32_t c) { return __builtin_amdgcn_sdot4(a, b, c, false); }
#elif defined(DOT_NONE)
INLINE int32_t dot4(int32_t a, int32_t b, int32_t c)
{
    UNROLL_FOR (int i = 0; i < 32; i += 8) c += (int32_t)(int8_t)(a >> i) * (int32_t)(int8_t)(b >> i);
    return c;
}
#endif

INLINE uint64_t multiply_high(uint64_t a, uint64_t b) { return (uint64_t)(((unsigned __int128)a * b) >> 64); }
INLINE void lds_add(uint32_t *p, uint32_t x) { __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }
INLINE void lds_add(uint64_t *p, uint64_t x) { __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }
INLINE void lds_minimum(uint64_t *p, uint64_t x) { __atomic_fetch_min(p, x, __ATOMIC_RELAXED); }
#endif
