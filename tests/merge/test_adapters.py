"""Every algorithm against its published formula in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelhub.convert import Piece
from modelhub.errors import MergeError
from modelhub.merge.adapters import make_update
from modelhub.merge.base import AdapterModule, Shape, Target
from modelhub.merge.fitting import misfit
from modelhub.source.memory import BytesSource
from modelhub.tensors import DType, StorageRef, TensorInfo
from tests.merge import reference

LINEAR, CONV, POINT = (48, 32), (24, 16, 3, 3), (24, 16, 1, 1)
STRENGTHS = (-1.0, 0.0, 0.5, 1.0)


def some(*shape: int, seed: int = 0, size: float = 0.3) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, size, shape)


def factors(shape: tuple[int, ...], rank: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    out, inputs, *kernel = shape
    return {"up": some(out, rank), "down": some(rank, inputs, *kernel, seed=1), **more}


def sparse_beyond(row: int, size: tuple[int, ...]) -> dict[str, np.ndarray]:
    places = np.array([[row], [0]])
    return factors(LINEAR, 4, bias_indices=places, bias_values=some(1), bias_size=np.array(size))


def loha(shape: tuple[int, ...], rank: int) -> dict[str, np.ndarray]:
    out, inputs, *kernel = shape
    columns = inputs * int(np.prod(kernel))
    return {
        role: some(*size, seed=seed)
        for seed, (role, size) in enumerate(
            {"w1_a": (out, rank), "w1_b": (rank, columns), "w2_a": (out, rank), "w2_b": (rank, columns)}.items()
        )
    }


def loha_cp(shape: tuple[int, ...], rank: int) -> dict[str, np.ndarray]:
    out, inputs, *kernel = shape
    sizes = {
        "w1_a": (rank, out),
        "w1_b": (rank, inputs),
        "t1": (rank, rank, *kernel),
        "w2_a": (rank, out),
        "w2_b": (rank, inputs),
        "t2": (rank, rank, *kernel),
    }
    return {role: some(*size, seed=seed) for seed, (role, size) in enumerate(sizes.items())}


CASES: list[tuple[str, str, tuple[int, ...], dict[str, np.ndarray]]] = [
    ("lora", "linear", LINEAR, factors(LINEAR, 4)),
    ("lora", "conv 3x3", CONV, factors(CONV, 4)),
    ("lora", "conv 1x1", POINT, {"up": some(24, 4, 1, 1), "down": some(4, 16, 1, 1, seed=1)}),
    ("lora", "matrix factors of a 1x1 convolution", POINT, factors((24, 16), 4)),
    ("lora", "CP", CONV, {"up": some(24, 4, 1, 1), "down": some(4, 16, 1, 1, seed=1), "mid": some(4, 4, 3, 3, seed=2)}),
    (
        "lora",
        "sparse delta",
        LINEAR,
        factors(
            LINEAR,
            4,
            bias_indices=np.array([[0, 47, 3], [1, 31, 3]]),
            bias_values=some(3, seed=5),
            bias_size=np.array([48, 32]),
        ),
    ),
    ("loha", "linear", LINEAR, loha(LINEAR, 4)),
    ("loha", "conv", CONV, loha(CONV, 4)),
    ("loha", "CP", CONV, loha_cp(CONV, 4)),
    ("lokr", "both full", LINEAR, {"w1": some(6, 4), "w2": some(8, 8, seed=1)}),
    ("lokr", "conv, both full", CONV, {"w1": some(6, 4), "w2": some(4, 4, 3, 3, seed=1)}),
    ("lokr", "w1 factored", LINEAR, {"w1_a": some(6, 2), "w1_b": some(2, 4, seed=1), "w2": some(8, 8, seed=2)}),
    ("lokr", "w2 factored", LINEAR, {"w1": some(6, 4), "w2_a": some(8, 3, seed=1), "w2_b": some(3, 8, seed=2)}),
    ("lokr", "conv, w2 factored", CONV, {"w1": some(6, 4), "w2_a": some(4, 3, seed=1), "w2_b": some(3, 36, seed=2)}),
    (
        "lokr",
        "conv, w2 CP",
        CONV,
        {"w1": some(6, 4), "w2_a": some(3, 4, seed=1), "w2_b": some(3, 4, seed=2), "t2": some(3, 3, 3, 3, seed=3)},
    ),
    (
        "lokr",
        "both factored",
        LINEAR,
        {"w1_a": some(6, 3), "w1_b": some(3, 4, seed=1), "w2_a": some(8, 3, seed=2), "w2_b": some(3, 8, seed=3)},
    ),
    ("full", "linear", LINEAR, {"diff": some(*LINEAR)}),
    ("full", "conv", CONV, {"diff": some(*CONV)}),
    ("full", "bias", (24,), {"diff": some(24)}),
    ("set", "linear", LINEAR, {"set": some(*LINEAR)}),
    ("ia3", "outputs", LINEAR, {"weight": some(48)}),
    ("ia3", "outputs of a convolution", CONV, {"weight": some(24, 1, 1, 1), "on_input": np.array(0.0)}),
    ("ia3", "inputs", LINEAR, {"weight": some(1, 32), "on_input": np.array(1.0)}),
    ("ia3", "inputs of a convolution", CONV, {"weight": some(16), "on_input": np.array(1.0)}),
    ("oft", "linear", LINEAR, {"blocks": some(6, 8, 8)}),
    ("oft", "conv", CONV, {"blocks": some(4, 6, 6)}),
    ("oft", "rescaled", LINEAR, {"blocks": some(6, 8, 8), "rescale": some(48, 1, seed=1)}),
    ("oft", "butterfly", LINEAR, {"blocks": some(2, 6, 8, 8)}),
    ("oft", "butterfly of a convolution, rescaled", CONV, {"blocks": some(2, 6, 4, 4), "rescale": some(24, 1, 1, 1)}),
    ("glora", "linear", LINEAR, {"a1": some(32, 4), "a2": some(4, 32), "b1": some(48, 4), "b2": some(4, 32, seed=1)}),
    ("glora", "conv", POINT, {"a1": some(16, 4), "a2": some(4, 16), "b1": some(24, 4), "b2": some(4, 16, seed=1)}),
]
REFERENCE = {name: getattr(reference, {"set": "replaced"}.get(name, name)) for name, *_ in CASES}


def tensors_of(arrays: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {role: torch.from_numpy(np.asarray(array)).to(dtype) for role, array in arrays.items()}


def merged(algorithm: str, weight: np.ndarray, arrays: dict[str, np.ndarray], alpha: float | None, s: float, **more):
    update = make_update(algorithm, tensors_of(arrays), alpha, weight.shape, **more)
    return update.apply(torch.from_numpy(weight.copy()), 0, s).numpy(), update


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize(
    ("algorithm", "shape", "arrays"), [(a, s, t) for a, _, s, t in CASES], ids=[f"{a}: {n}" for a, n, *_ in CASES]
)
def test_every_algorithm_is_its_published_formula(algorithm, shape, arrays, alpha):
    """At every strength, with an alpha that is not the rank and without one, and in any blocks of rows."""
    weight = some(*shape, seed=9, size=1.0)
    for s in STRENGTHS:
        expected = REFERENCE[algorithm](weight, arrays, alpha, s)
        found, update = merged(algorithm, weight, arrays, alpha, s)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        if s == 0:
            np.testing.assert_array_equal(found, weight)
        if update.by_rows:
            blocks = [update.apply(torch.from_numpy(weight[n : n + 5].copy()), n, s) for n in range(0, shape[0], 5)]
            np.testing.assert_allclose(torch.cat(blocks).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("blocks", [some(6, 8, 8), some(2, 6, 8, 8)], ids=["OFT", "BOFT"])
def test_rotations_are_limited_by_alpha(blocks):
    """Blocks that are longer than alpha * out, those of all passes together, turn by no more than that."""
    weight = some(*LINEAR, seed=9, size=1.0)
    length = np.linalg.norm((blocks - blocks.swapaxes(-1, -2)).reshape(-1))
    for limit in (0.01 * 48, 0.9 * length):
        for s in STRENGTHS:
            found, _ = merged("oft", weight, {"blocks": blocks}, limit / 48, s)
            expected = reference.oft(weight, {"blocks": blocks}, limit / 48, s)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        shorter = merged("oft", weight, {"blocks": blocks * (limit / length)}, None, 1.0)[0]
        np.testing.assert_allclose(found, shorter, rtol=1e-10, atol=1e-12)


def test_a_block_of_a_kronecker_product_is_no_more_than_its_rows(monkeypatch):
    """Of a product that has a hundred rows for each of w1's, six rows make six, wherever they begin."""
    arrays = {"w1": some(3, 4), "w2": some(100, 8, seed=1)}
    weight = some(300, 32, seed=9)
    update = make_update("lokr", tensors_of(arrays), None, weight.shape)
    made, kron = [], torch.kron
    monkeypatch.setattr(torch, "kron", lambda a, b: made.append(product := kron(a, b)) or product)
    for first in (0, 97, 100, 294):
        found = update.apply(torch.from_numpy(weight[first : first + 6].copy()), first, 1.0)
        expected = reference.lokr(weight, arrays, None, 1.0)[first : first + 6]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert sum(product.shape[0] for product in made) == 4 * 6


def test_a_full_kronecker_product_has_no_scale():
    """LyCORIS writes alphas like 1e10 beside two full factors: they mean nothing."""
    weight = some(*LINEAR, seed=9)
    arrays = {"w1": some(6, 4), "w2": some(8, 8, seed=1)}
    np.testing.assert_array_equal(
        merged("lokr", weight, arrays, 1e10, 1.0)[0], merged("lokr", weight, arrays, None, 1.0)[0]
    )


def test_the_older_layout_of_glora_is_known_by_its_shapes():
    """Each factor the other way round and the pairs swapped give the same merge; where both fit, it is refused."""
    weight = some(*LINEAR, seed=9)
    new = {"a1": some(32, 4), "a2": some(4, 32), "b1": some(48, 4), "b2": some(4, 32, seed=1)}
    old = {"a1": new["a2"], "a2": new["a1"], "b1": new["b2"], "b2": new["b1"]}
    np.testing.assert_allclose(merged("glora", weight, old, 2, 0.5)[0], merged("glora", weight, new, 2, 0.5)[0])
    square = {role: some(8, 8) for role in ("a1", "a2", "b1", "b2")}
    with pytest.raises(MergeError, match="both layouts"):
        merged("glora", some(8, 8), square, None, 1.0)


@pytest.mark.parametrize(
    ("shape", "magnitudes", "axis", "peft"),
    [
        (LINEAR, (48, 1), 0, False),
        (LINEAR, (1, 32), 1, False),
        (LINEAR, (48,), 0, True),
        ((32, 32), (32, 1), 0, False),
        ((32, 32), (1, 32), 1, False),
        ((32, 32), (32,), 0, True),
        (CONV, (24, 1, 1, 1), 0, False),
        (CONV, (1, 16, 1, 1), 1, False),
        (CONV, (1, 24, 1, 1), 0, True),
        ((16, 16, 3, 3), (1, 16, 1, 1), 1, False),
        ((16, 16, 3, 3), (1, 16, 1, 1), 0, True),
    ],
)
@pytest.mark.parametrize("algorithm", ["lora", "loha"])
def test_dora_on_either_axis(algorithm, shape, magnitudes, axis, peft):
    """The axis follows from the shape of the magnitudes and who wrote them; the strength law is W + s (D - W)."""
    weight, scale = some(*shape, seed=9, size=1.0), np.abs(some(*magnitudes, seed=3)) + 1
    arrays = (factors if algorithm == "lora" else loha)(shape, 4)
    for s in STRENGTHS:
        at_one = REFERENCE[algorithm](weight, arrays, 1.5, 1.0)
        expected = reference.dora(weight, at_one, scale, axis, s)
        found, update = merged(algorithm, weight, arrays, 1.5, s, magnitudes=torch.from_numpy(scale), peft=peft)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        assert update.by_rows == (axis == 0)
        if s == 0:
            np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize(
    ("algorithm", "arrays"),
    [
        ("lora", {"up": some(48, 4), "down": some(4, 31)}),
        ("lora", {"up": some(48, 4), "down": some(5, 32)}),
        ("lora", {"up": some(48, 4)}),
        ("loha", {"w1_a": some(48, 4), "w1_b": some(4, 32), "w2_a": some(48, 4), "w2_b": some(4, 30)}),
        ("lokr", {"w1": some(6, 4), "w2": some(7, 8)}),
        ("full", {"diff": some(48, 31)}),
        ("ia3", {"weight": some(47)}),
        ("oft", {"blocks": some(6, 8, 7)}),
        ("oft", {"blocks": some(5, 8, 8)}),
        ("oft", {"blocks": some(3, 6, 8, 8)}),
        (
            "lora",
            factors(LINEAR, 4, bias_indices=np.array([[48], [0]]), bias_values=some(1), bias_size=np.array(LINEAR)),
        ),
        ("lora", factors(LINEAR, 4, bias_indices=np.array([[4], [0]]), bias_values=some(1), bias_size=np.array([48]))),
        ("glora", {"a1": some(32, 4), "a2": some(4, 32), "b1": some(48, 3), "b2": some(4, 32)}),
    ],
)
def test_what_does_not_fit_is_refused(algorithm, arrays):
    """Tensors that do not fit the weight, or each other, are an error in words."""
    with pytest.raises(MergeError):
        merged(algorithm, some(*LINEAR), arrays, 1.0, 1.0)


@pytest.mark.parametrize("scale", [(32,), (1, 48), (32, 1), (2, 24), (48, 2)])
def test_magnitudes_that_do_not_fit_are_refused(scale):
    """A count that belongs to neither axis, or to the other one, is not guessed at."""
    with pytest.raises(MergeError):
        merged("lora", some(*LINEAR), factors(LINEAR, 4), None, 1.0, magnitudes=torch.from_numpy(some(*scale)))


MANY = 10**6


@pytest.mark.parametrize(
    ("algorithm", "rows", "shapes"),
    [
        ("lora", 24, {"up": (24, MANY), "down": (1, 320), "mid": (MANY, 1, 3, 3)}),
        (
            "loha",
            24,
            {
                **{"w1_a": (MANY, 24), "w1_b": (1, 320), "t1": (MANY, 1, 3, 3)},
                **{"w2_a": (1, 24), "w2_b": (1, 320), "t2": (1, 1, 3, 3)},
            },
        ),
        ("lokr", 320, {"w1": (1, 1), "w2_a": (1, 320), "w2_b": (MANY, 320), "t2": (1, MANY, 3, 3)}),
    ],
)
def test_products_that_no_memory_holds_are_not_made(algorithm: str, rows: int, shapes: dict[str, Shape]) -> None:
    """A few megabytes in CP form can stand for products of gigabytes: the plan says so, by the shapes."""
    tensors = {
        role: Piece(BytesSource("a", b""), TensorInfo(role, DType.F16, shape, StorageRef(role, 0, 0)))
        for role, shape in shapes.items()
    }
    module = AdapterModule("m", "denoiser", ("m",), "weight", algorithm, tensors)
    reason = misfit(module, Target((rows, 320, 3, 3), ()))
    assert reason == f"a product of its factors alone would have {MANY * 9 * 320:,} numbers"
