"""What the emulated driver must do, asked through AMD's own HIP.

python -m rocmforge.tests.amd.driver_cases CASE[,CASE...] CODE.hsaco [OTHER.hsaco]
A case asserts what it finds; those that end the process print "reached" before.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_float, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = """
KERNEL scale(float *x, float by, u32 n) { if (GLOBAL < n) x[GLOBAL] *= by; }
KERNEL add(float *x, const float *y, u32 n) { if (GLOBAL < n) x[GLOBAL] += y[GLOBAL]; }
KERNEL rotate(u32 *out, const u32 *in) {
  __shared__ u32 row[256];
  row[THREAD] = in[GLOBAL];
  BARRIER;
  out[GLOBAL] = row[(THREAD + 1) % SIZE];
}
KERNEL sizes(u32 *out) {
  const volatile u16 *hidden = (const u16 *)__builtin_amdgcn_implicitarg_ptr();
  for (u32 i = 0; i < 9; i++) out[i] = hidden[i];
}
KERNEL mark(u32 *out) { __hip_atomic_fetch_add(&out[THREAD], 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT); }
KERNEL spill(u32 *out, u32 by) {
  u32 kept[64];
  for (u32 i = 0; i < 64; i++) kept[(i * by) & 63] = i ^ THREAD;
  u32 sum = 0;
  for (u32 i = 0; i < 64; i++) sum = sum * 31 + kept[(i + THREAD) & 63];
  out[GLOBAL] = sum;
}
KERNEL poke(u32 *out, u64 at) { *(volatile u32 *)at = 1; out[0] = 1; }
KERNEL forever(u32 *out) { while (*(volatile u32 *)out == 0) {} }
KERNEL race(u32 *out) { __shared__ u32 x[64]; x[0] = THREAD; BARRIER; x[THREAD & 1] = THREAD; out[THREAD] = x[0]; }
KERNEL unset(u32 *out) { __shared__ u32 x[64]; if (THREAD < 8) x[THREAD] = 1; BARRIER; out[THREAD] = x[THREAD & 15]; }
"""
TO_DEVICE, TO_HOST = 1, 2
OUT_OF_MEMORY = 2
# hipExtModuleLaunchKernel, which is C++: its grid is in work-items.
_LAUNCH_ITEMS = "_Z24hipExtModuleLaunchKernelP18ihipModuleSymbol_tjjjjjjmP12ihipStream_tPPvS4_P11ihipEvent_tS6_j"


class Hip:
    """AMD's library and a module; every call must succeed that is made by `ok`."""

    def __init__(self, code: str, device: int = 0):
        self.library = ctypes.CDLL(os.environ["ROCMFORGE_HIP_LIBRARY"])
        self.ok("hipSetDevice", device)
        self.module = c_void_p()
        image = Path(code).read_bytes()
        self.ok("hipModuleLoadData", byref(self.module), ctypes.create_string_buffer(image, len(image)))

    def ok(self, name: str, *arguments: Any) -> None:
        """Call a function."""
        code = getattr(self.library, name)(*arguments)
        assert code == 0, f"{name}: {code}"

    def malloc(self, size: int) -> c_void_p:
        """Device memory."""
        pointer = c_void_p()
        self.ok("hipMalloc", byref(pointer), c_size_t(size))
        return pointer

    def upload(self, array: np.ndarray) -> c_void_p:
        """A copy in device memory."""
        pointer = self.malloc(array.nbytes)
        self.ok("hipMemcpy", pointer, c_void_p(array.ctypes.data), c_size_t(array.nbytes), TO_DEVICE)
        return pointer

    def download(self, pointer: c_void_p, like: np.ndarray) -> np.ndarray:
        """A copy of device memory."""
        out = np.empty_like(like)
        self.ok("hipMemcpy", c_void_p(out.ctypes.data), pointer, c_size_t(out.nbytes), TO_HOST)
        return out

    def function(self, name: str) -> c_void_p:
        """A kernel."""
        found = c_void_p()
        self.ok("hipModuleGetFunction", byref(found), self.module, name.encode())
        return found

    def launch(
        self, name: str, grid: int, block: int, arguments: Sequence[Any], stream: c_void_p | None = None
    ) -> None:
        """Launch."""
        table = (c_void_p * len(arguments))(*[ctypes.addressof(a) for a in arguments])
        self.ok("hipModuleLaunchKernel", self.function(name), grid, 1, 1, block, 1, 1, 0, stream, table, None)

    def stream(self) -> c_void_p:
        """A stream that does not wait for the default one."""
        made = c_void_p()
        self.ok("hipStreamCreateWithFlags", byref(made), 1)
        return made

    def wait(self) -> None:
        """For all."""
        self.ok("hipDeviceSynchronize")

    def free_bytes(self) -> int:
        """Of the device."""
        free, total = c_size_t(), c_size_t()
        self.ok("hipMemGetInfo", byref(free), byref(total))
        return free.value


def kernels(code: str) -> None:
    """Results against NumPy: floats, LDS, hidden arguments, scratch; copies of odd sizes between odd places."""
    hip, random = Hip(code), np.random.default_rng(1)
    x = random.standard_normal(1000).astype(np.float32)
    pointer = hip.upload(x)
    hip.launch("scale", 4, 256, [pointer, c_float(1.7), c_uint32(990)])
    assert hip.download(pointer, x).tobytes() == np.concatenate([x[:990] * np.float32(1.7), x[990:]]).tobytes()
    numbers = random.integers(0, 1 << 32, 1024, np.uint32)
    out, given = hip.upload(numbers), hip.upload(numbers)
    hip.launch("rotate", 4, 256, [out, given])
    assert (hip.download(out, numbers) == np.roll(numbers.reshape(4, 256), -1, axis=1).ravel()).all()
    hip.launch("sizes", 7, 96, [out])
    assert hip.download(out, numbers)[:9].tolist() == [7, 0, 1, 0, 1, 0, 96, 1, 1]
    hip.launch("spill", 2, 64, [out, c_uint32(5)])
    kept, thread = np.empty((64, 64), np.uint32), np.arange(64, dtype=np.uint32)
    for i in range(64):
        kept[i * 5 & 63] = i ^ thread
    total = np.zeros(64, np.uint32)
    for i in range(64):
        total = total * np.uint32(31) + kept[i + thread & 63, thread]
    assert (hip.download(out, numbers)[:128] == np.tile(total, 2)).all()
    data = random.integers(0, 256, 7_000_077, np.uint8)
    pointer = hip.malloc(1 << 23)
    for at, begin, size in ((0, 0, data.size), (3, 5, 1001), (4096, 1, 70_001), (1, 3, data.size - 3)):
        here = c_void_p((pointer.value or 0) + at)
        source = c_void_p(data.ctypes.data + begin)
        hip.ok("hipMemcpy", here, source, c_size_t(size), TO_DEVICE)
        assert (hip.download(here, data[:size]) == data[begin : begin + size]).all()


def partial(code: str) -> None:
    """A grid in work-items that its workgroups do not divide."""
    hip, seen = Hip(code), np.zeros(64, np.uint32)
    pointer = hip.upload(seen)
    table = (c_void_p * 1)(ctypes.addressof(pointer))
    launch = getattr(hip.library, _LAUNCH_ITEMS)
    assert launch(hip.function("mark"), 150, 1, 1, 64, 1, 1, c_size_t(0), None, table, None, None, None, 0) == 0
    assert hip.download(pointer, seen).tolist() == [3] * 22 + [2] * 42


def streams(code: str) -> None:
    """Streams that wait for each other's events, many times; events know when they were."""
    hip, count = Hip(code), 256
    x = hip.upload(np.ones(count, np.float32))
    first, second = hip.stream(), hip.stream()
    events = [c_void_p() for _ in range(40)]
    for event in events:
        hip.ok("hipEventCreate", byref(event))
    for number in range(0, 40, 2):
        hip.launch("scale", 1, count, [x, c_float(2.0), c_uint32(count)], first)
        hip.ok("hipEventRecord", events[number], first)
        hip.ok("hipStreamWaitEvent", second, events[number], 0)
        hip.launch("scale", 1, count, [x, c_float(0.5), c_uint32(count)], second)
        hip.launch("add", 1, count, [x, x, c_uint32(count)], second)
        hip.ok("hipEventRecord", events[number + 1], second)
        hip.ok("hipStreamWaitEvent", first, events[number + 1], 0)
    hip.ok("hipStreamSynchronize", first)
    assert (hip.download(x, np.empty(count, np.float32)) == 2.0**20).all()
    milliseconds = c_float()
    hip.ok("hipEventElapsedTime", byref(milliseconds), events[0], events[39])
    assert 0 < milliseconds.value < 60_000, milliseconds.value
    for event in events:
        hip.ok("hipEventDestroy", event)


def threads(code: str) -> None:
    """Eight threads of the program, each with its streams, events and memory."""
    hip = Hip(code)
    done: list[int] = []

    def work(seed: int) -> None:
        hip.ok("hipSetDevice", 0)
        random = np.random.default_rng(seed)
        for _ in range(6):
            count, stream, event = int(random.integers(1, 5000)), hip.stream(), c_void_p()
            x = random.standard_normal(count).astype(np.float32)
            pointer = hip.upload(x)
            hip.ok("hipEventCreate", byref(event))
            for _ in range(4):
                hip.launch("scale", -(-count // 256), 256, [pointer, c_float(2.0), c_uint32(count)], stream)
            hip.ok("hipEventRecord", event, stream)
            hip.ok("hipEventSynchronize", event)
            assert (hip.download(pointer, x) == 16 * x).all()
            hip.ok("hipFree", pointer)
            hip.ok("hipEventDestroy", event)
            hip.ok("hipStreamDestroy", stream)
        done.append(seed)

    running = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sorted(done) == list(range(8))


def last_words(code: str) -> None:
    """The main thread ends while another still runs kernels."""
    hip = Hip(code)
    x = hip.upload(np.ones(2000, np.float32))

    def work() -> None:
        threading.main_thread().join()
        hip.ok("hipSetDevice", 0)
        hip.launch("scale", 8, 256, [x, c_float(2.0), c_uint32(2000)])
        print("right" if (hip.download(x, np.empty(2000, np.float32)) == 2).all() else "wrong", flush=True)

    threading.Thread(target=work).start()


def graphs(code: str) -> None:
    """A graph that is replayed with other inputs, on two streams."""
    hip, count = Hip(code), 512
    host, x = c_void_p(), hip.malloc(4 * count)
    hip.ok("hipHostMalloc", byref(host), c_size_t(4 * count), 0)
    given = np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(c_float)), (count,))
    total = hip.upload(np.zeros(count, np.float32))
    stream, graph, executable = hip.stream(), c_void_p(), c_void_p()
    hip.ok("hipStreamBeginCapture", stream, 1)
    hip.ok("hipMemcpyAsync", x, host, c_size_t(4 * count), TO_DEVICE, stream)
    for _ in range(30):
        hip.launch("scale", 2, 256, [x, c_float(2.0), c_uint32(count)], stream)
        hip.launch("scale", 2, 256, [x, c_float(0.5), c_uint32(count)], stream)
    hip.launch("add", 2, 256, [total, x, c_uint32(count)], stream)
    hip.ok("hipStreamEndCapture", stream, byref(graph))
    hip.ok("hipGraphInstantiate", byref(executable), graph, None, None, c_size_t(0))
    expected, random = np.zeros(count, np.float32), np.random.default_rng(3)
    for replay in range(20):
        given[:] = random.standard_normal(count)
        on = stream if replay % 2 else hip.stream()
        hip.ok("hipGraphLaunch", executable, on)
        hip.ok("hipStreamSynchronize", on)
        expected += given
        assert hip.download(total, expected).tobytes() == expected.tobytes()
    hip.ok("hipGraphExecDestroy", executable)
    hip.ok("hipGraphDestroy", graph)


def memory(code: str) -> None:
    """Memory runs out as HIP says it, and comes back."""
    hip, pointer = Hip(code), c_void_p()
    once = hip.upload(np.zeros(4096, np.uint8))  # what the library keeps for itself
    hip.ok("hipMemset", once, 0, c_size_t(4096))
    hip.wait()
    free = hip.free_bytes()
    assert hip.library.hipMalloc(byref(pointer), c_size_t(free + (1 << 30))) == OUT_OF_MEMORY
    for _ in range(6):
        block = hip.malloc(free * 3 // 4)
        assert hip.free_bytes() == free - (free * 3 // 4 + 4095) // 4096 * 4096, (free, hip.free_bytes())
        assert hip.library.hipMalloc(byref(pointer), c_size_t(free // 2)) == OUT_OF_MEMORY
        end = c_void_p((block.value or 0) + free * 3 // 4 - 4096)
        hip.ok("hipMemset", end, 7, c_size_t(4096))
        assert (hip.download(end, np.empty(4096, np.uint8)) == 7).all()
        hip.ok("hipFree", block)
        assert hip.free_bytes() == free, (free, hip.free_bytes())


def churn(code: str) -> None:
    """Streams, events and modules that come and go leave nothing: no thread, no descriptor, no memory."""
    hip = Hip(code)

    def once() -> None:
        for _ in range(12):
            stream = hip.stream()
            x = hip.upload(np.ones(64, np.float32))
            hip.launch("scale", 1, 64, [x, c_float(2.0), c_uint32(64)], stream)
            hip.ok("hipStreamSynchronize", stream)
            hip.ok("hipFree", x)
            hip.ok("hipStreamDestroy", stream)

    def held() -> tuple[int, int, int]:
        hip.wait()
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), hip.free_bytes()

    once()
    before = held()
    once()
    assert held() == before


def devices(code: str, other: str) -> None:
    """Two GPUs of different kinds: each runs its own code in its own memory; a copy goes from one to the other."""
    count = c_int()
    first = Hip(code, 0)
    first.ok("hipGetDeviceCount", byref(count))
    assert count.value == 2
    x = np.random.default_rng(4).standard_normal(256).astype(np.float32)
    here = first.upload(x)
    free = first.free_bytes()
    second = Hip(other, 1)
    there = second.upload(x)
    second.launch("scale", 1, 256, [there, c_float(3.0), c_uint32(256)])
    second.wait()
    first.ok("hipSetDevice", 0)
    first.launch("scale", 1, 256, [here, c_float(2.0), c_uint32(256)])
    first.wait()
    assert first.free_bytes() == free
    assert first.download(here, x).tobytes() == (x * np.float32(2)).tobytes()
    second.ok("hipSetDevice", 1)
    assert second.download(there, x).tobytes() == (x * np.float32(3)).tobytes()
    second.ok("hipMemcpyPeer", there, 1, here, 0, c_size_t(x.nbytes))
    assert second.download(there, x).tobytes() == (x * np.float32(2)).tobytes()


def _ends(hip: Hip, name: str, *arguments: Any, out: c_void_p | None = None) -> None:
    out = out or hip.upload(np.zeros(64, np.uint32))
    print("reached", flush=True)
    hip.launch(name, 1, 64, [out, *arguments])
    code = hip.library.hipDeviceSynchronize()
    print(f"went on: {code}", flush=True)


def wild_pointer(code: str) -> None:
    """Nothing is mapped there."""
    _ends(Hip(code), "poke", ctypes.c_uint64(0x123456789000))


def behind_the_end(code: str) -> None:
    """One page behind an allocation."""
    hip = Hip(code)
    _ends(hip, "poke", ctypes.c_uint64((hip.malloc(10_000).value or 0) + 12_288))


def use_after_free(code: str) -> None:
    """The driver has taken it back."""
    hip = Hip(code)
    pointer, out = hip.malloc(1 << 22), hip.upload(np.zeros(64, np.uint32))
    hip.ok("hipFree", pointer)
    _ends(hip, "poke", ctypes.c_uint64(pointer.value or 0), out=out)


def other_device(code: str, _: str) -> None:
    """Memory of a GPU that this one was not given."""
    hip = Hip(code)
    hip.ok("hipSetDevice", 1)
    pointer = hip.malloc(4096)
    hip.ok("hipSetDevice", 0)
    _ends(hip, "poke", ctypes.c_uint64(pointer.value or 0))


def hang(code: str) -> None:
    """A kernel without end."""
    _ends(Hip(code), "forever")


def race(code: str) -> None:
    """What only the emulator sees."""
    _ends(Hip(code), "race")


def unset(code: str) -> None:
    """The same."""
    _ends(Hip(code), "unset")


CASES: Mapping[str, Callable[..., None]] = {
    case.__name__: case
    for case in (
        kernels,
        partial,
        streams,
        threads,
        last_words,
        graphs,
        memory,
        churn,
        devices,
        wild_pointer,
        behind_the_end,
        use_after_free,
        other_device,
        hang,
        race,
        unset,
    )
}

if __name__ == "__main__":
    for asked in sys.argv[1].split(","):
        CASES[asked](*sys.argv[2:])
