"""What must hold between the parts of a layout, each of which is in order: see `layout_file`."""

from __future__ import annotations

from typing import Final

from .arguments import BufferRef, KvRef, StateRef, StepRef, TensorRef, argument_text
from .checker import Checker
from .head import check_head
from .layout import KV_GROUP, TENSOR_ALIGNMENT, KvLayout, Layout, TensorEntry
from .packing_sizes import packed_bytes

KNOWN: Final = "expected a known tensor, buffer or layer"

_MAX_ARENA_BYTES: Final = 1 << 42


def check_layout(check: Checker, layout: Layout, weights_bytes: int) -> None:
    """Check a layout whose tensors lie inside `weights_bytes` bytes.

    Raises:
        BundleError: two parts disagree, with the field named.
    """
    _caches(check, layout.kv)
    _tensors(check, layout.tensors, weights_bytes)
    _launches(check, layout)
    _final_norm(check, layout)
    _tap(check, layout)
    _sampler(check, layout)
    if layout.head is not None:
        shapes = {tensor.name: (tensor.packing, tensor.shape) for tensor in layout.tensors}
        check_head(check, layout.head, shapes, layout.hidden_size)
    if layout.arena_bytes() > _MAX_ARENA_BYTES:
        check.fail("buffers", f"expected at most {_MAX_ARENA_BYTES} bytes, found {layout.arena_bytes()}")


def _caches(check: Checker, kv: KvLayout) -> None:
    """Check that caches that are not alike are as many and as large as the KV cache says."""
    if kv.unlike and KvLayout.of(kv.unlike, kv.block_size, kv.dtype) != kv:
        check.fail("kv_caches", "expected caches that are not alike, as many and as large as those of kv, found others")
    for index, cache in enumerate(kv.unlike):
        if kv.dtype == "q8_0" and (cache.key_dim % KV_GROUP or cache.value_dim % KV_GROUP):
            found = f"{cache.key_dim} and {cache.value_dim}"
            check.fail(f"kv_caches[{index}]", f"expected multiples of {KV_GROUP} for q8_0, found {found}")


def _tensors(check: Checker, tensors: tuple[TensorEntry, ...], weights_bytes: int) -> None:
    """Check that the tensors lie aligned inside the blob and apart, and that shapes and bytes agree (FAULTS 38, 39)."""
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: t.offset):
        at = f"tensor {tensor.name}"
        if tensor.offset % TENSOR_ALIGNMENT:
            check.fail(f"{at}.offset", f"expected a multiple of {TENSOR_ALIGNMENT}, found {tensor.offset}")
        if tensor.offset + tensor.n_bytes > weights_bytes:
            found = f"{tensor.offset} + {tensor.n_bytes}"
            check.fail(f"{at}.offset", f"expected an end within {weights_bytes} bytes, found {found}")
        if tensor.offset < end:
            check.fail(f"{at}.offset", f"expected at least {end}, the end of {before!r}, found {tensor.offset}")
        try:
            expected = packed_bytes(tensor.packing, tensor.shape)
        except ValueError as error:
            check.fail(f"{at}.shape", f"{error}, found {tensor.packing!r} of {tensor.shape}")
        if tensor.n_bytes != expected:
            problem = f"expected {expected} bytes for {tensor.packing!r} of {tensor.shape}, found {tensor.n_bytes}"
            check.fail(f"{at}.shape", problem)
        end, before = tensor.offset + tensor.n_bytes, tensor.name


def _launches(check: Checker, layout: Layout) -> None:
    """Check that each argument names something that exists."""
    known = {TensorRef(tensor.name) for tensor in layout.tensors} | {BufferRef(b.name) for b in layout.buffers}
    for index, launch in enumerate(layout.launches):
        for position, argument in enumerate(launch.arguments):
            match argument:
                case StepRef():
                    fits = launch.grid is not None
                case KvRef():
                    fits = argument.layer < layout.kv.num_layers
                case StateRef():
                    fits = argument.index < len(layout.states)
                case _:
                    fits = argument is None or argument in known
            if not fits:
                at = f"launches[{index}].arguments[{position}]"
                expected = "expected a known state" if isinstance(argument, StateRef) else KNOWN
                check.fail(at, f"{expected}, found {argument_text(argument)!r}")


def _final_norm(check: Checker, layout: Layout) -> None:
    """Check that buffer and tensor exist and are as large as they are read."""
    norm, size = layout.final_norm, layout.hidden_size
    if norm is None:
        return
    buffer = next((b for b in layout.buffers if b.name == norm.buffer), None)
    if buffer is None or (buffer.dtype, buffer.elements_per_token) != ("float32", size):
        check.fail("final_norm.buffer", f"expected a buffer of {size} float32 a token, found {norm.buffer!r}")
    for field, name in (("tensor", norm.tensor), ("bias", norm.bias)):
        found = next((t for t in layout.tensors if t.name == name), None)
        if name and (found is None or (found.packing, found.shape) != ("f32", (size,))):
            check.fail(f"final_norm.{field}", f"expected a tensor f32 of {size} elements, found {name!r}")


def _tap(check: Checker, layout: Layout) -> None:
    """Check that the buffer exists, and is as large as it is read."""
    if layout.tap is None:
        return
    size, buffer = layout.tap.columns, next((b for b in layout.buffers if b.name == layout.tap.buffer), None)
    if buffer is None or (buffer.dtype, buffer.elements_per_token) != ("float32", size):
        check.fail("tap.buffer", f"expected a buffer of {size} float32 a token, found {layout.tap.buffer!r}")


def _sampler(check: Checker, layout: Layout) -> None:
    """Check that the launch exists, and that the buffer holds logits."""
    sampler = layout.sampler
    if sampler is None:
        return
    if sampler.launch >= len(layout.launches):
        check.fail("sampler.launch", f"expected one of {len(layout.launches)} launches, found {sampler.launch}")
    buffer = next((b for b in layout.buffers if b.name == sampler.logits), None)
    size = layout.vocab_size * layout.max_sequences
    if buffer is None or buffer.dtype != "float32" or buffer.elements_fixed < size:
        check.fail("sampler.logits", f"expected a buffer of {size} float32, found {sampler.logits!r}")
