"""Convolutions and scans over sequences, on the host and on emulated GPUs: their meaning, and the same bits in any cut.

Bounds count roundings of float32, `ROUNDING` each, to the first order; `SLACK` stands for what is behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Graph, Node, Value, Weight
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops.scan import Sizes, terms_of
from rocmforge.tests.kernels.kernel_harness import ROUNDING, Array, Float32, Float64, Step
from rocmforge.tests.kernels.node_harness import HOST_LEVELS, PLACES, Case, Places

TOKENS = 12
RANDOM = np.random.default_rng(1616)
EXP = 2.0**-21  # of a kernel's exponential, relative: tests/oracles/kernels.py
SLACK = 1.01
EVERYWHERE = (*PLACES, "gfx1201")
SLOTS, UNTOUCHED = 16, 0xA5


def normal(*shape: int, size: float = 1.0, mean: float = 0.0) -> Float32:
    return RANDOM.normal(mean, size, shape).astype(np.float32)


def conv_case(
    stride: int, channels: tuple[int, ...], taps: int, *, biased: bool = False, activation: str, **firsts: int
) -> Case:
    """A convolution by matrices of so many channels each."""
    weights = {f"w{index}": normal(count, taps, size=0.6) for index, count in enumerate(channels)}
    weights |= {f"w{index}_bias": normal(count) for index, count in enumerate(channels) if biased}
    names = (*sorted(weights, key=lambda name: name.endswith("bias")),)
    node = Node("short_conv", ("x",), "y", names, {"activation": activation, **firsts})
    values = Value("x", "T", stride), Value("y", "T", sum(channels))
    return Case(node, values, weights, {}, {"x": normal(TOKENS, stride)})


CONVOLUTIONS = {
    "mamba2": conv_case(190, (151,), 4, biased=True, activation="silu", first=33),
    "lfm2": conv_case(3 * 61, (61,), 3, activation="none", first=122, times_first=0, gate_first=61),
    "kimi": conv_case(3 * 48, (48, 48, 48), 4, biased=True, activation="silu"),
}


def scan_case(kind: str, read: dict[str, int], weights: dict[str, Float32], /, **attributes: Attribute) -> Case:
    """A scan over values of so many columns, of which each is an input."""
    out = int(attributes["heads"]) * int(attributes["columns"])
    node = Node("scan", tuple(read), "y", tuple(weights), {"kind": kind, **attributes})
    values = [Value(name, "T", count) for name, count in read.items()]
    inputs = {name: normal(TOKENS, count) for name, count in read.items()}
    return Case(node, (*values, Value("y", "T", out)), weights, {}, inputs)


def rates(*shape: int) -> Float32:
    """Below 0, most of them small, so that states last; one so large that they end at once."""
    found = -np.exp(normal(*shape, size=1.2, mean=-1.5))
    found.reshape(-1)[0] = -60
    return found.astype(np.float32)


def delta_case(heads: int, key_heads: int, state: int, columns: int, **attributes: Attribute) -> Case:
    qkv = 2 * key_heads * state + heads * columns
    sizes: dict[str, Attribute] = {"heads": heads, "key_heads": key_heads, "state": state, "columns": columns}
    weights = {"a": rates(heads), "bias": normal(heads)}
    return scan_case("delta", {"qkv": qkv + 5, "gates": 2 * heads}, weights, **sizes, epsilon=1e-6, **attributes)


def kda_case(heads: int, state: int, columns: int) -> Case:
    keys = heads * state
    weights = {"a": rates(heads), "bias": normal(keys)}
    sizes: dict[str, Attribute] = {"heads": heads, "state": state, "columns": columns}
    inputs = {"qkv": 2 * keys + heads * columns, "decay": keys, "beta": heads}
    return scan_case("kda", inputs, weights, **sizes, epsilon=1e-5)


def mamba_case(kind: str, heads: int, state: int, columns: int, groups: int = 1, *, biased: bool = True) -> Case:
    weights = {"a": rates(heads, state) if kind == "mamba" else rates(heads), "d": normal(heads)}
    weights |= {"bias": normal(heads)} if biased else {}
    sizes: dict[str, Attribute] = {"heads": heads, "state": state, "columns": columns}
    sizes |= {"groups": groups} if groups > 1 else {}
    keys = groups * state
    inputs = {"x": heads * columns, "dt": heads + 3, "b": keys + 2, "c": keys}
    return scan_case(kind, inputs, weights, **sizes, dt_first=3, b_first=1)


def linear_case(heads: int, state: int, columns: int, groups: int) -> Case:
    sizes: dict[str, Attribute] = {"heads": heads, "state": state, "columns": columns, "groups": groups}
    inputs = {"x": heads * columns + 2, "b": groups * state, "c": groups * state + 3}
    return scan_case("linear", inputs, {"a": rates(heads)}, **sizes, x_first=2, c_first=1)


SCANS = {
    "delta-block": delta_case(4, 2, 32, 32, gate_heads=2),
    "delta-modulo": delta_case(6, 3, 7, 21, mapping="modulo", qkv_first=5),
    "delta-wide": delta_case(1, 1, 128, 20, qkv_first=2),
    "kda": kda_case(3, 32, 32),
    "kda-wide": kda_case(1, 100, 16),
    "kda-odd": kda_case(2, 20, 5),
    "mamba2": mamba_case("mamba2", 4, 140, 32, 2),
    "mamba2-odd": mamba_case("mamba2", 3, 5, 21, biased=False),
    "linear": linear_case(4, 33, 32, 4),
    "linear-odd": linear_case(6, 16, 5, 3),
    "mamba": mamba_case("mamba", 64, 16, 1),
    "mamba-odd": mamba_case("mamba", 37, 6, 1, biased=False),
}
CASES = {**{f"conv-{name}": one for name, one in CONVOLUTIONS.items()}, **SCANS}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(CASES.values(), build_cache, tmp_path_factory.mktemp("recurrence"))


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of a step that are of one sequence: rows of the case's inputs.

    Attributes:
        begin: slot that it goes on from; -1: none.
        ends: slots by the row after which they take the state.
    """

    rows: range
    begin: int = -1
    ends: tuple[tuple[int, int], ...] = ()


def run(places: Places, place: str, case: Case, pieces: Sequence[Piece], states: Array) -> list[Array]:
    """One step; the output of each piece."""
    order = [row for piece in pieces for row in piece.rows]
    starts = np.cumsum([0, *(len(piece.rows) for piece in pieces)]).tolist()
    to = [dict(piece.ends).get(row, -1) for piece in pieces for row in piece.rows]
    step = Step(
        len(order), sequence_starts=starts, state_from=[piece.begin for piece in pieces], state_to=to, positions=order
    )
    taken = replace(case, inputs={name: x[order] for name, x in case.inputs.items()})
    found = places.run(place, taken, step, states=states)
    return [found[first:end].copy() for first, end in pairwise(starts)]


def slots(case: Case, place: str) -> npt.NDArray[np.uint8]:
    """Of a node's state, filled with what is no state."""
    (entry,) = case.planner(place).states
    return np.full((SLOTS, entry.n_bytes), UNTOUCHED, np.uint8)


def same(one: Array, other: Array) -> bool:
    return one.tobytes() == other.tobytes()


def conv_bound(case: Case) -> Float64:
    """A product and a sum a tap, and those with what stands beside it; then SiLU, whose slope is at most 1.1."""
    sized = replace(
        case,
        node=replace(case.node, attributes={**case.node.attributes, "activation": "none"}),
        inputs={"x": np.abs(case.inputs["x"])},
        weights={name: np.abs(weight) for name, weight in case.weights.items()},
    )
    found: Float64 = 1.1 * 16 * ROUNDING * sized.meaning() + 2 * EXP * np.abs(case.meaning())
    return found


@dataclass(slots=True)
class Off:
    """What a kernel's state may be off by: [heads, state, columns], or of delta a column's length, [heads, columns]."""

    state: Float64
    off: Float64


def softplus_off(x: Float64) -> Float64:
    """Relative, of a kernel's softplus of a sum: the exponential, its series, and the sum's own rounding."""
    found: Float64 = EXP + (16 + 2 * np.abs(x)) * ROUNDING
    return found


def scan_bound(case: Case) -> Float64:
    """See the recurrences in this file's two functions, which go along with the state's own."""
    sizes = Sizes.of(case.node)
    inputs = [np.asarray(case.inputs[name], np.float64) for name in case.node.inputs]
    weights = [case.numbers(name) for name in case.node.weights]
    terms = terms_of(case.node, inputs, weights)
    decay_off = EXP - np.log(np.maximum(terms.decays, 1e-40)) * (
        softplus_off(np.abs(weights[-1]).max(keepdims=True) + 8) + ROUNDING
    )
    bound = _mamba_bound if sizes.of_mamba else _delta_bound
    return SLACK * bound(sizes, terms, decay_off)


def _mamba_bound(sizes: Sizes, terms: Any, decay_off: Float64) -> Float64:
    """Element by element: what was off decays, and each product and sum adds its rounding."""
    state = np.zeros((sizes.heads, sizes.state, sizes.columns))
    off, found = state.copy(), np.empty_like(terms.values)
    step_off = softplus_off(np.array(12.0)) + 3 * ROUNDING
    for t in range(len(found)):
        decay, query = terms.decays[t][:, :, None], np.abs(terms.queries[t])
        written = np.abs(np.einsum("hi,hj->hij", terms.keys[t], terms.rates[t] * terms.values[t]))
        off = decay * off + (decay_off[t][:, :, None] + 3 * ROUNDING) * decay * state + (step_off) * written
        state = decay * state + written  # magnitudes: at least the state's own
        sums = np.einsum("hij,hi->hj", off + (sizes.state + 3) * ROUNDING * state, query)
        found[t] = sums + 4 * ROUNDING * np.abs(terms.added[t])
    joined: Float64 = found.reshape(len(found), -1)
    return joined


def _delta_bound(sizes: Sizes, terms: Any, decay_off: Float64) -> Float64:
    """Of a column's length: 1 - beta k k^T makes none longer, and |k| is at most 1, so errors decay and add up."""
    state = np.zeros((sizes.heads, sizes.state, sizes.columns))
    off, found = np.zeros((sizes.heads, sizes.columns)), np.empty_like(terms.values)
    unit_off, sum_off = (sizes.state / 8 + 12) * ROUNDING, sizes.state * ROUNDING
    rate_off = EXP + 6 * ROUNDING
    for t in range(len(found)):
        most, most_off = terms.decays[t].max(1)[:, None], decay_off[t].max(1)[:, None]
        state = terms.decays[t][:, :, None] * state
        length = np.linalg.norm(state, axis=1)
        written = terms.rates[t] * (terms.values[t] - np.einsum("hij,hi->hj", state, terms.keys[t]))
        off = most * off + (most_off + 2 * ROUNDING) * length + terms.rates[t] * (unit_off + 2 * sum_off) * length
        state = state + np.einsum("hi,hj->hij", terms.keys[t], written)
        length = np.linalg.norm(state, axis=1)
        off = off + (rate_off + unit_off) * np.abs(written) + 2 * ROUNDING * length
        found[t] = np.linalg.norm(terms.queries[t], axis=1)[:, None] * (off + (unit_off + 2 * sum_off) * length)
    joined: Float64 = found.reshape(len(found), -1)
    return joined


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_meaning(places: Places, place: str, name: str) -> None:
    case = CASES[name]
    states = slots(case, place)
    (found,) = run(places, place, case, [Piece(range(TOKENS))], states)
    bound = scan_bound(case) if case.node.op == "scan" else conv_bound(case)
    assert (np.abs(found - case.meaning()) <= bound).all()
    assert (states == UNTOUCHED).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_bits_are_the_same_in_any_cut_and_beside_others(places: Places, place: str, name: str) -> None:
    """Whole, in pieces, one token at a time, beside others; slots in the middle hold what a run cut there writes."""
    case = CASES[name]
    kept = slots(case, place)
    ends = tuple((row, row) for row in (0, 3, 4, 7, TOKENS - 1))
    (whole,) = run(places, place, case, [Piece(range(TOKENS), -1, ends)], kept)
    untouched = [slot for slot in range(SLOTS) if slot not in dict(ends)]
    assert (kept[untouched] == UNTOUCHED).all()
    assert not (kept[[0, 3, 4, 7, TOKENS - 1]] == UNTOUCHED).all(1).any()

    states = slots(case, place)
    for row in range(TOKENS):
        (one,) = run(places, place, case, [Piece(range(row, row + 1), row - 1, ((row, row),))], states)
        assert same(one, whole[row : row + 1]), row
    assert all(same(states[row], kept[row]) for row, _ in ends)

    first, second = Piece(range(4, 8), 3, ((7, 14),)), Piece(range(4), -1, ((3, 13), (0, 15)))
    mixed = run(places, place, case, [Piece(range(5, 9)), first, Piece(range(8, 9), 7), second], states)
    assert same(mixed[1], whole[4:8])
    assert same(mixed[2], whole[8:9])
    assert same(mixed[3], whole[:4])
    assert all(same(states[slot], kept[row]) for slot, row in ((14, 7), (13, 3), (15, 0)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", [HOST_LEVELS[0], "gfx1100"])
def test_what_is_not_a_number_stays_in_its_sequence(places: Places, place: str, name: str, value: float) -> None:
    case = CASES[name]
    calm = run(places, place, case, [Piece(range(6)), Piece(range(6, TOKENS))], slots(case, place))
    for spoiled in case.node.inputs:
        x = case.inputs[spoiled].copy()
        x[8, x.shape[1] // 2] = value
        broken = replace(case, inputs={**case.inputs, spoiled: x})
        found = run(places, place, broken, [Piece(range(6)), Piece(range(6, TOKENS))], slots(case, place))
        assert same(found[0], calm[0])
        assert same(found[1][:2], calm[1][:2])
        assert not np.isnan(value) or np.isnan(found[1][2]).any(), spoiled


@pytest.mark.parametrize("name", ["conv-mamba2", "delta-block"])
def test_another_gpu(places: Places, name: str) -> None:
    case = CASES[name]
    states = slots(case, "gfx1201")
    (found,) = run(places, "gfx1201", case, [Piece(range(TOKENS), -1, ((3, 3),))], states)
    bound = scan_bound(case) if case.node.op == "scan" else conv_bound(case)
    assert (np.abs(found - case.meaning()) <= bound).all()
    (rest,) = run(places, "gfx1201", case, [Piece(range(4, TOKENS), 3)], states)
    assert same(rest, found[4:])


CONV, DELTA, MAMBA = CONVOLUTIONS["mamba2"], SCANS["delta-block"], SCANS["mamba2"]


@pytest.mark.parametrize(
    "one, changed, problem",
    [
        (CONV, {"activation": "relu"}, "expected an activation of none, silu, found relu"),
        (CONV, {"first": 40}, "expected an input of 191 columns and an output of 151, found 190 and 151"),
        (CONV, {"gate_first": 40}, "expected an input of 191 columns and an output of 151, found 190 and 151"),
        (DELTA, {"kind": "gated"}, "expected a kind of mamba, mamba2, linear, delta, kda, found gated"),
        (DELTA, {"kind": "kda"}, "expected inputs qkv, decay, beta, found 2"),
        (DELTA, {"groups": 2}, "expected no groups of kind delta"),
        (DELTA, {"mapping": "both"}, "expected a mapping of block, modulo, found both"),
        (DELTA, {"key_heads": 3}, "expected key_heads that 4 heads are a multiple of, found 3"),
        (DELTA, {"gate_heads": 3}, "expected gate_heads that 4 heads are a multiple of, found 3"),
        (DELTA, {"state": 257}, "expected a state of 1 to 256 rows, found 257"),
        (DELTA, {"qkv_first": 6}, "expected qkv of 262 columns, found 261"),
        (MAMBA, {"groups": 3}, "expected groups that 4 heads are a multiple of, found 3"),
        (MAMBA, {"b_first": 3}, "expected b of 283 columns, found 282"),
        (MAMBA, {"columns": 31}, "expected an output of 124 columns, found 128"),
        (MAMBA, {"epsilon": 1e-5}, "expected no epsilon of kind mamba2"),
        (SCANS["mamba"], {"columns": 2}, "expected a column a head, found 2"),
        (
            SCANS["mamba"],
            {"kind": "mamba2"},
            "expected weights of ((64,), (64,), (64,)), found ((64, 16), (64,), (64,))",
        ),
    ],
)
def test_problems(one: Case, changed: dict[str, Attribute], problem: str) -> None:
    assert problem_of(one) == ""
    node = replace(one.node, attributes={**one.node.attributes, **changed})
    assert problem_of(replace(one, node=node)) == problem


def problem_of(one: Case) -> str:
    weights = {name: Weight(name, x.shape, "F32") for name, x in one.weights.items()}
    graph = Graph((one.node,), {value.name: value for value in one.values}, weights)
    return OPERATIONS[one.node.op].problem(graph, one.node)


def test_problems_of_weights() -> None:
    wide = {**CONV.weights, "w0": normal(151, 9)}
    assert (
        problem_of(replace(CONV, weights=wide)) == "expected weights of 2 to 8 columns, as many each, found [[151, 9]]"
    )
    short = {**CONV.weights, "w0_bias": normal(150)}
    assert problem_of(replace(CONV, weights=short)) == "expected biases as high as the weights, found [[150]]"
    attributes = {name: value for name, value in DELTA.node.attributes.items() if name != "epsilon"}
    assert problem_of(replace(DELTA, node=replace(DELTA.node, attributes=attributes))) == "expected an epsilon"
