"""Each algorithm's published formula in numpy and double precision, as plainly as it can be written."""

from __future__ import annotations

import itertools

import numpy as np

Array = np.ndarray
Tensors = dict[str, Array]


def scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def lora(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    rank = t["down"].shape[0]
    up = t["up"].reshape(t["up"].shape[0], rank)
    if "mid" in t:
        product = np.einsum("mnkl,om,ni->oikl", t["mid"], up, t["down"][:, :, 0, 0])
    else:
        product = (up @ t["down"].reshape(rank, -1)).reshape(weight.shape)
    if "bias_values" in t:
        sparse = np.zeros([int(n) for n in t["bias_size"]])
        for place, value in zip(t["bias_indices"].T, t["bias_values"], strict=True):
            sparse[tuple(int(n) for n in place)] += value
        product = product + sparse.reshape(weight.shape)
    return weight + s * scale(alpha, rank) * product


def loha(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    def factor(n: int) -> Array:
        a, b = t[f"w{n}_a"], t[f"w{n}_b"]
        if f"t{n}" in t:
            return np.einsum("ijkl,jr,ip->prkl", t[f"t{n}"], b, a)
        return (a @ b.reshape(b.shape[0], -1)).reshape(weight.shape)

    return weight + s * scale(alpha, t["w1_b"].shape[0]) * factor(1) * factor(2)


def lokr(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    w1 = t["w1"] if "w1" in t else t["w1_a"] @ t["w1_b"]
    inputs, kernel = weight.shape[1] // w1.shape[1], weight.shape[2:]
    if "w2" in t:
        w2 = t["w2"]
    elif "t2" in t:
        w2 = np.einsum("ijkl,ip,jr->prkl", t["t2"], t["w2_a"], t["w2_b"])
    else:
        w2 = t["w2_a"] @ t["w2_b"].reshape(t["w2_b"].shape[0], -1)
    w2 = w2.reshape(weight.shape[0] // w1.shape[0], inputs, *kernel)
    product = np.zeros(weight.shape)
    for a, b in itertools.product(range(w1.shape[0]), range(w1.shape[1])):
        rows, columns = a * w2.shape[0], b * inputs
        product[rows : rows + w2.shape[0], columns : columns + inputs] = w1[a, b] * w2
    ranks = [t[role].shape[0] for role in ("w1_b", "w2_b") if role in t]
    return weight + s * (scale(alpha, ranks[0]) if ranks else 1.0) * product


def full(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    return weight + s * t["diff"].reshape(weight.shape)


def replaced(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    return weight + s * (t["set"].reshape(weight.shape) - weight)


def ia3(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    merged = weight.copy()
    for n, factor in enumerate(t["weight"].reshape(-1)):
        place = (slice(None), n) if t.get("on_input") else (n,)
        merged[place] = weight[place] * (1 + s * factor)
    return merged


def rotation(q: Array) -> Array:
    one = np.eye(len(q))
    return (one + q) @ np.linalg.inv(one - q)


def oft(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    blocks, out = t["blocks"], weight.shape[0]
    merged = weight.reshape(out, -1)
    skew = blocks - blocks.swapaxes(-1, -2)
    length, limit = np.linalg.norm(skew.reshape(-1)), (alpha or 0) * out
    if 0 < limit < length:
        skew = skew * limit / length
    size = blocks.shape[-1]
    for number, each in enumerate(skew[None] if blocks.ndim == 3 else skew):
        turns = [s * rotation(q) + (1 - s) * np.eye(size) for q in each]
        turned = np.zeros_like(merged)
        order = list(range(out)) if blocks.ndim == 3 else butterfly(out, number, size)
        for n, turn in enumerate(turns):
            places = order[n * size : n * size + size]
            turned[places] = (turn.T if blocks.ndim == 3 else turn) @ merged[places]
        merged = turned
    if "rescale" in t:
        merged = merged * (1 + s * (t["rescale"].reshape(-1, 1) - 1))
    return merged.reshape(weight.shape)


def butterfly(out: int, number: int, size: int) -> list[int]:
    """The outputs in the order in which pass *number* takes them: groups of two halves, interleaved."""
    apart = 2**number * (size // 2)
    return [
        group * 2 * apart + half * apart + place
        for group in range(out // (2 * apart))
        for place in range(apart)
        for half in range(2)
    ]


def glora(weight: Array, t: Tensors, alpha: float | None, s: float) -> Array:
    rank = t["a2"].shape[0]
    changed = np.einsum("oi...,ij,jk->ok...", weight, t["a1"], t["a2"])
    return weight + s * scale(alpha, rank) * (changed + (t["b1"] @ t["b2"]).reshape(weight.shape))


def dora(weight: Array, merged: Array, magnitudes: Array, axis: int, s: float) -> Array:
    """*merged* is W + delta at strength 1."""
    others = tuple(n for n in range(weight.ndim) if n != axis)
    length = np.sqrt((merged**2).sum(axis=others, keepdims=True))
    return weight + s * (merged * magnitudes.reshape(length.shape) / length - weight)


def peft_ia3(weight: Array, factors: Array, *, on_input: bool, s: float) -> Array:
    merged = weight.copy()
    for n, factor in enumerate(factors.reshape(-1)):
        place = (slice(None), n) if on_input else (n,)
        merged[place] = weight[place] + s * (weight[place] * factor - weight[place])
    return merged


def from_triangle(upper: Array) -> Array:
    """The skew matrix whose upper triangle, row by row, is *upper*."""
    size = next(n for n in itertools.count(1) if n * (n - 1) // 2 == len(upper))
    skew = np.zeros((size, size))
    for value, (row, column) in zip(upper, itertools.combinations(range(size), 2), strict=True):
        skew[row, column], skew[column, row] = value, -value
    return skew


def cayley(skew: Array) -> Array:
    one = np.eye(len(skew))
    return (one - skew) @ np.linalg.inv(one + skew)


def cayley_neumann(skew: Array, terms: int, *, halved: bool) -> Array:
    """The series 1 + 2 Q + 2 Q^2 + ... of the Cayley transform with its sign turned, as PEFT cuts it off."""
    powers = [np.linalg.matrix_power(skew, n) for n in range(1, terms)]
    if halved and terms == 3:
        powers.append(np.linalg.matrix_power(skew, 3))
    factors = [2.0] * len(powers)
    if halved and terms > 2:
        factors[-1] = 1.0
    return np.eye(len(skew)) + sum(factor * power for factor, power in zip(factors, powers, strict=True))


def bounded(block: Array, longest: float | None, count: int) -> Array:
    length = np.linalg.norm(block)
    return block if longest is None or length <= longest / count**0.5 else block * longest / count**0.5 / length


def on_inputs(weight: Array, turns: list[Array]) -> Array:
    """Each run of inputs, of convolutions with their kernel, turned by its rotation, or all by the only one."""
    rows = weight.reshape(len(weight), -1)
    size = len(turns[0])
    runs = rows.shape[1] // size
    turned = np.zeros_like(rows)
    for n in range(runs):
        place = slice(n * size, n * size + size)
        turned[:, place] = rows[:, place] @ turns[n % len(turns)].T
    return turned.reshape(weight.shape)


def on_outputs(weight: Array, turns: list[Array]) -> Array:
    """Each run of outputs turned by its rotation; what the last has too much of it is cut off."""
    rows = weight.reshape(len(weight), -1)
    size = len(turns[0])
    turned = np.zeros_like(rows)
    for first in range(0, len(rows), size):
        count = min(size, len(rows) - first)
        turn = turns[first // size % len(turns)][:count, :count]
        turned[first : first + count] = turn.T @ rows[first : first + count]
    return turned.reshape(weight.shape)


def reflected(weight: Array, directions: Array, *, orthogonal: bool) -> Array:
    """Each input reflected at the planes that stand on *directions*, which may be made orthogonal by Gram-Schmidt."""
    units: list[Array] = []
    turned = weight.reshape(len(weight), -1)
    for own in directions.T:
        left = own - sum((other @ own) * other for other in units if orthogonal)
        units.append(left / np.linalg.norm(left))
        turned = turned - 2 * np.outer(turned @ units[-1], units[-1])
    return turned.reshape(weight.shape)


def scaled(weight: Array, factors: Array) -> Array:
    return weight * factors.reshape(-1, *[1] * (weight.ndim - 1))


def butterfly_of_inputs(weight: Array, blocks: Array) -> Array:
    """PEFT's passes: in pass *i* the halves of a block lie 2^i halves apart."""
    turned = weight.reshape(len(weight), -1)
    for number, pieces in enumerate(blocks):
        size = pieces.shape[-1]
        before, turned = turned, np.zeros_like(turned)
        if number == 0:
            runs = [range(n * size, n * size + size) for n in range(len(pieces))]
        else:
            half, apart = size // 2, 2**number
            starts = [n for n in range(2 * len(pieces)) if not n // apart % 2]
            runs = [[(n + other) * half + k for other in (0, apart) for k in range(half)] for n in starts]
        for places, block in zip(map(list, runs), pieces, strict=True):
            turned[:, places] = before[:, places] @ cayley((block - block.T) / 2).T
    return turned.reshape(weight.shape)
