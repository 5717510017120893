"""What is kept of a function's answers, and what is not."""

from __future__ import annotations

from modelhub.identify import adapter_names, names
from modelhub.kept import Kept


def test_answers_are_kept_up_to_a_number_and_of_usual_keys() -> None:
    asked: list[str] = []

    def make(text: str) -> int:
        asked.append(text)
        return len(text)

    kept = Kept(make, 2, lambda text: len(text) < 4)
    assert [kept[text] for text in ("a", "a", "long", "long", "b", "c", "c")] == [1, 1, 4, 4, 1, 1, 1]
    assert asked == ["a", "long", "long", "b", "c"]
    assert dict(kept) == {"c": 1}


def test_long_names_are_not_kept() -> None:
    """A process reads many files, and what one of them is called must not stay in its memory."""
    long = "blocks." + "x" * 500
    names._parts({f"{long}.{'y' * 500}.weight": None})
    adapter_names.grouped([f"{long}.lora_up.weight"], [None])
    adapter_names.read_stem(long)
    for kept in (names._known_dotted, names._one, adapter_names._stems, adapter_names._splits):
        assert all(len(key) < 500 for key in kept)
