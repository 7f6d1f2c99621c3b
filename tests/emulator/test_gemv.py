"""A kernel of the kind that serving runs: an int8 dot product, a reduction through LDS, on each family."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

ROWS, K, THREADS = 37, 1024, 256
SOURCE = """
#if defined(PLAIN)
static __attribute__((device)) int dot(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(i8)(a >> i) * (int)(i8)(b >> i);
  return c;
}
#define DOT(a, b, c) dot(a, b, c)
#elif defined(__GFX9__)
#define DOT(a, b, c) __builtin_amdgcn_sdot4(a, b, c, false)
#else
#define DOT(a, b, c) __builtin_amdgcn_sudot4(true, a, true, b, c, false)
#endif
typedef int int4v __attribute__((ext_vector_type(4)));
KERNEL gemv(float *out, const int4v *w, const int4v *x, const float *scale, u32 K) {
  __shared__ float sums[THREADS];
  u32 n = K / 16;
  float total = 0;
  for (u32 i = THREAD; i < n; i += THREADS) {
    int4v a = w[GROUP * n + i], b = x[i];
    int t = 0;
    for (int j = 0; j < 4; j++) t = DOT(a[j], b[j], t);
    total += scale[i] * (float)t;
  }
  sums[THREAD] = total;
  BARRIER;
  for (u32 k = THREADS / 2; k; k /= 2) {
    if (THREAD < k) sums[THREAD] += sums[THREAD + k];
    BARRIER;
  }
  if (!THREAD) out[GROUP] = sums[0];
}
"""


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201", "gfx942", "gfx11-generic", "gfx12-generic", "gfx9-4-generic"])
def test_gemv(arch: str) -> None:
    """Block dots are exact; K/16 scaled sums are added in float32 in a tree, so each of the 64 terms passes at most
    10 roundings: the bound is 10 ulp of the sum of the terms' sizes."""
    device = {"gfx11-generic": "gfx1100", "gfx12-generic": "gfx1201", "gfx9-4-generic": "gfx942"}.get(arch, arch)
    # The generic one of gfx9 has no dot instruction.
    flags = ("-DPLAIN",) if arch == "gfx9-4-generic" else ()
    gpu = Gpu(SOURCE.replace("THREADS", str(THREADS)), arch, flags, device=device)
    rng = np.random.default_rng(7)
    w = rng.integers(-128, 128, (ROWS, K), dtype=np.int8)
    x = rng.integers(-128, 128, K, dtype=np.int8)
    scale = rng.random(K // 16).astype(np.float32)
    out = np.zeros(ROWS, np.float32)
    gpu.run("gemv", ROWS, THREADS, out, w, x, scale, ctypes.c_uint32(K))
    dots = (w.reshape(ROWS, -1, 16).astype(np.int64) * x.reshape(-1, 16)).sum(2)
    terms = dots * scale.astype(np.float64)
    bound = 10 * np.finfo(np.float32).eps * np.abs(terms).sum(1)
    assert (np.abs(out - terms.sum(1)) <= bound).all()
    counters = gpu.api.counters()["gemv"]
    assert counters.launches == 1
    assert counters.waves == ROWS * THREADS // (64 if arch.startswith("gfx9") else 32)
    if arch != "gfx9-4-generic":
        # One 16-byte load a lane: 64 lanes of each row, in whole waves that load full lines.
        assert counters.instructions["dot"] == ROWS * 4 * (K // 16) // (64 if arch == "gfx942" else 32)
    weights = counters.by_allocation["array 1"][0]
    assert weights.bytes == ROWS * K
    assert weights.transactions == weights.full_transactions == weights.distinct_lines == ROWS * K // 128
