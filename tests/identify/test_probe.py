"""Single numbers of tensors: how many are read of those that are likely to be the same."""

from __future__ import annotations

import pytest

from modelhub.identify import Observation, identify_observation, restored, stored
from modelhub.identify.probe import Probe
from modelhub.samples.layouts import lora
from modelhub.tensors import DType
from tests.identify.build import half, holding, state_dict

WHOLE = lora("sd-1", rank=4)
ALPHAS = [name for name in WHOLE if name.endswith(".alpha")]


def observed(values: dict[str, bytes], *, sparing: bool) -> tuple[Observation, list[tuple[int, int]]]:
    """A whole LoRA with these alphas, as a probe of one or the other sort sees it, and what is read of it."""
    tensors = state_dict(WHOLE)
    read, reads = holding(tensors, values)
    return Observation({"": (tensors, Probe(read, sparing=sparing))}), reads


def test_alike() -> None:
    """Of alphas that are all alike, a sparing probe reads a few of each group and says what one that reads all says."""
    values = {name: half(4.0) for name in ALPHAS}
    all_read, reads = observed(values, sparing=False)
    few_read, few = observed(values, sparing=True)
    whole, sparing = identify_observation(all_read), identify_observation(few_read)
    assert whole == sparing
    assert whole.adapter is not None and whole.adapter.alphas == {4.0: len(ALPHAS)}
    assert len(reads) == len(ALPHAS) and len(few) <= 24


@pytest.mark.parametrize("odd", [0, len(ALPHAS) - 1])
def test_not_alike(odd: int) -> None:
    """Where the few differ all of the group are read, and the counts are exact."""
    values = {name: half(1.0 if number == odd else 4.0) for number, name in enumerate(ALPHAS)}
    seen, _ = observed(values, sparing=True)
    adapter = identify_observation(seen).adapter
    assert adapter is not None and adapter.alphas == {4.0: len(ALPHAS) - 1, 1.0: 1}


def test_not_finite() -> None:
    """Alphas that are no numbers are not taken for numbers."""
    seen, _ = observed({name: half(float("nan")) for name in ALPHAS}, sparing=True)
    adapter = identify_observation(seen).adapter
    assert adapter is not None and adapter.alphas == {} and adapter.alpha is None


def test_kept() -> None:
    """What a sparing probe took for read is kept, so that the answer is the same again without the file."""
    seen, _ = observed({name: half(2.0) for name in ALPHAS}, sparing=True)
    identity = identify_observation(seen)
    assert identify_observation(restored(stored(seen))) == identity


def test_other_precisions() -> None:
    """Numbers of a group that are not single are not read at all."""
    probe = Probe(lambda offset, length: bytes(length), sparing=True)
    tensors = state_dict({f"t{number}": (DType.F16, (2,)) for number in range(20)})
    assert probe.each(tensors, list(tensors)) == [None] * 20
