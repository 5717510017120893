"""The table of errors."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable

import click
import pytest

from modelhub import cli, errors
from tests.cli.run import modelhub

TREE = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ModelHubError) and value is not errors.UnsafeModelError
]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_is_a_sentence_and_2(kind: type[errors.ModelHubError]) -> None:
    """Each error of the tree is told as its own sentence and hint, and ends with 2."""
    required = [p for p in inspect.signature(kind).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    error = kind(*["a.ckpt: no"] * len(required))
    told = cli.explain(error)
    assert told == (str(error), error.hint, 2)


@pytest.mark.parametrize(("verdict", "code"), [("unknown", 2), ("suspicious", 1), ("unsafe", 1)])
def test_a_refused_file_is_1_only_if_something_was_found(verdict: str, code: int) -> None:
    """UnsafeModelError ends with 1 for a suspicious or unsafe file, with 2 for one that was not understood."""
    report = types.SimpleNamespace(verdict=types.SimpleNamespace(label=verdict))
    assert cli.explain(errors.UnsafeModelError("a.ckpt: refused", report)).exit_code == code


def _command_that_raises(error: BaseException) -> click.Command:
    @click.command("raising")
    def command() -> None:
        raise error

    return command


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let ``modelhub scan`` raise an error."""

    def install(error: BaseException) -> None:
        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: _command_that_raises(error))

    return install


def test_ctrl_c_is_one_line_and_130(raising: Callable[[BaseException], None]) -> None:
    """An interrupted command says so in one line."""
    raising(KeyboardInterrupt())
    ran = modelhub("scan")
    assert (ran.code, ran.out, ran.err) == (130, "", "error: interrupted\n")


def test_an_internal_error_asks_for_a_report(
    raising: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is told in one sentence; its traceback is shown on demand only."""
    raising(ZeroDivisionError("of \x1b[31mall things"))
    ran = modelhub("scan")
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert r"ZeroDivisionError: of \x1b[31mall things" in ran.err
    assert "please report this" in ran.err
    monkeypatch.setenv("MODELHUB_DEBUG", "1")
    assert "Traceback" in modelhub("scan").err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "out.bin"), "out.bin: No space left on device"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "there is not enough memory for this"),
    ],
)
def test_the_system_s_errors_are_sentences(
    raising: Callable[[BaseException], None], error: BaseException, sentence: str
) -> None:
    """A full disk or a lack of memory is told as a sentence, not as a bug."""
    raising(error)
    ran = modelhub("scan")
    assert (ran.code, ran.err) == (2, f"error: {sentence}\n")
