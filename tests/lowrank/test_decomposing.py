"""Approximations of matrices by those of low rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from modelhub.lowrank import RankRule
from modelhub.lowrank.decomposing import balanced, decompose
from modelhub.lowrank.krylov import leading
from modelhub.merge.worker import torch_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are not shared out, as they are not in an extraction."""
    with torch_threads(1):
        yield


SHAPES = [(96, 640), (640, 96), (700, 1200), (1200, 700)]


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_values(values: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix with these singular values."""
    left = torch.linalg.qr(drawn(rows, len(values), seed=2).double()).Q
    right = torch.linalg.qr(drawn(columns, len(values), seed=3).double()).Q
    return ((left * values) @ right.T).float()


NUMBERS = torch.arange(1, 401, dtype=torch.float64)
SPECTRA: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: drawn(400, 900),
    "all the same": lambda: of_values(torch.ones(400, dtype=torch.float64), 400, 900),
    "a straight line": lambda: of_values(1 - NUMBERS / 800, 400, 900),
    "a step at the rank": lambda: of_values(torch.where(NUMBERS <= 16, 1.0, 0.97), 400, 900),
    "a step behind the rank": lambda: of_values(torch.where(NUMBERS <= 40, 1.0, 0.5), 400, 900),
    "slowly falling": lambda: of_values(NUMBERS**-0.3, 400, 900),
    "falling": lambda: of_values(NUMBERS**-1.0, 400, 900),
    "falling fast": lambda: of_values(0.7**NUMBERS, 400, 900),
    "a larger rank and noise": lambda: drawn(400, 24) @ drawn(24, 900, seed=2) + drawn(400, 900, seed=3),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("exact", [False, True])
def test_the_decomposition_is_the_best_there_is(shape: tuple[int, int], exact: bool) -> None:
    """Exact or from a Krylov space, a rank keeps the energy that the singular values of the matrix say."""
    matrix = drawn(*shape) * torch.logspace(0, -2, shape[1])
    values = torch.linalg.svdvals(matrix.double())
    found = decompose(matrix, RankRule(16), 16, exact=exact)
    up, down = balanced(found)
    error = float((matrix.double() - up @ down).norm())
    assert error == pytest.approx(float(values[16:].norm()), rel=1e-6 if exact else 2e-4)
    assert found.energy == pytest.approx(float(values.square().sum()), rel=1e-6)
    torch.testing.assert_close(found.values, values[:16], rtol=1e-6 if exact else 5e-3, atol=0)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_left_is_nearly_the_least_whatever_the_spectrum(spectrum: str, turned: bool) -> None:
    """The error is at most a thousandth more than the best one's, no value is too large, none is 3% too small, and the
    energy that is told is what the factors have."""
    matrix = SPECTRA[spectrum]()
    matrix = matrix.T.contiguous() if turned else matrix
    assert leading(matrix.T if turned else matrix, 16, float(matrix.double().square().sum())) is not None
    values = torch.linalg.svdvals(matrix.double())
    found = decompose(matrix, RankRule(16), 16)
    up, down = balanced(found)
    error = float((matrix.double() - up @ down).norm())
    assert error <= 1.001 * float(values[16:].norm())
    assert bool((found.values <= values[:16] * (1 + 1e-6)).all())
    assert bool((found.values >= values[:16] * 0.97).all())
    assert float(found.values.square().sum()) == pytest.approx(found.energy - error**2, rel=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 16])
@pytest.mark.parametrize("shape", [(400, 400), (900, 400)])
@pytest.mark.parametrize("exact", [False, True])
def test_a_change_of_low_rank_is_recovered(shape: tuple[int, int], rank: int, exact: bool) -> None:
    """A product of two factors is found again within 1e-5 of it, at its own rank and at larger ones."""
    matrix = drawn(shape[0], rank) @ drawn(rank, shape[1], seed=2)
    up, down = balanced(decompose(matrix, RankRule(16), 16, exact=exact))
    assert float((matrix - up @ down).norm()) <= 1e-5 * float(matrix.norm())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 120),
    columns=st.integers(1, 120),
    rank=st.integers(1, 4),
    scale=st.integers(-36, 36),
    count=st.integers(1, 6),
    bad=st.booleans(),
)
def test_any_matrix_is_decomposed(rows: int, columns: int, rank: int, scale: int, count: int, bad: bool) -> None:
    """Whatever its shape, rank and size, and with rows that are zero or nearly so, factors are finite and as good as
    the best."""
    matrix = drawn(rows, rank) @ drawn(rank, columns, seed=2)
    if bad:
        matrix[::2] *= 1e-12
    matrix = (matrix.double() * 10.0**scale).float()
    if not bool(matrix.any()):
        return
    found = decompose(matrix, RankRule(count), count)
    up, down = balanced(found)
    assert bool(up.isfinite().all()) and bool(down.isfinite().all())
    values = torch.linalg.svdvals(matrix.double())
    error = (matrix.double() - up.double() @ down.double()).norm()
    assert float(error) <= 1.001 * float(values[len(found.values) :].norm()) + 1e-5 * float(values[0])


@pytest.mark.parametrize(
    ("dynamic", "expected"),
    [(("sv_ratio", 3.9), 2), (("sv_fro", 0.9), 2), (("sv_cumulative", 0.9), 3), (("sv_fro", 1.0), 4), (None, 4)],
)
@pytest.mark.parametrize("rows", [30, 300])
def test_rules_for_ranks(dynamic: tuple[str, float] | None, expected: int, rows: int) -> None:
    """Each rule keeps what its definition says of the singular values 8, 4, 2 and 1."""
    matrix = of_values(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64), rows, 350)
    found = decompose(matrix, RankRule(4, dynamic=dynamic), 4)  # type: ignore[arg-type]
    assert len(found.values) == expected


@pytest.mark.parametrize(
    "rule", [("sv_fro", 0.6), ("sv_fro", 0.9), ("sv_fro", 0.999), ("sv_ratio", 3.0), ("sv_ratio", 40.0)]
)
@pytest.mark.parametrize("most", [8, 100, 400])
def test_ranks_grow_as_far_as_the_rule_asks(rule: tuple[str, float], most: int) -> None:
    """Where a rule says the rank, few values are computed first and more where those do not do: the rank is what all
    singular values say, within one of it, and a share of the norm that is told is reached."""
    matrix = of_values(NUMBERS**-0.7, 400, 600)
    values = torch.linalg.svdvals(matrix.double())
    found = decompose(matrix, RankRule(most, dynamic=rule), most)  # type: ignore[arg-type]
    if rule[0] == "sv_fro":
        expected = int((values.square().cumsum(0) < rule[1] ** 2 * values.square().sum()).sum()) + 1
    else:
        expected = int((values > values[0] / rule[1]).sum())
    assert abs(len(found.values) - min(expected, most)) <= 1
    up, down = balanced(found)
    if rule[0] == "sv_fro" and len(found.values) < most:
        assert float((up @ down).norm()) >= (rule[1] - 1e-6) * float(matrix.norm())
