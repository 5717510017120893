"""Where other programs say otherwise than modelhub, we know why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import modelhub
from benchmarks import peers
from tests.corpus import CorpusFile, build
from tests.differential.disagreements import Disagreement, Reason, disagreements, reasons, stale, unexplained

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the others run in forked children")

COMPARED = ("picklescan", "fickling API", "torch weights_only")
TORCH = "2.13"
TIMEOUT = 5.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[CorpusFile]:
    return build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def safe(corpus: list[CorpusFile]) -> list[bool]:
    """Whether modelhub by itself calls each file safe."""
    return [modelhub.scan(file.path, second_opinion=False).verdict is modelhub.Verdict.SAFE for file in corpus]


def program(name: str) -> peers.Tool:
    """The program *name*, from the folder that MODELHUB_BENCH names or from this environment; else the test skips."""
    if name == "torch weights_only":
        if importlib.util.find_spec("torch") is None or not importlib.metadata.version("torch").startswith(TORCH):
            pytest.skip(f"torch {TORCH} is not installed")
        return peers.torch_weights_only()
    folder = os.environ.get("MODELHUB_BENCH")
    found = peers.tools(folder, peers.PEERS) if folder else peers.tools_here()
    for tool in found:
        if tool.name == name:
            return tool
    pytest.skip(f"{name} is not installed at the version of the list")


@pytest.mark.parametrize("name", COMPARED)
def test_every_disagreement_is_explained(
    name: str, corpus: Sequence[CorpusFile], safe: Sequence[bool], tmp_path: Path
) -> None:
    """For each file that one side passes and the other does not, the committed list says why, and says no more."""
    answers = peers.answers(program(name), [file.path for file in corpus], str(tmp_path), timeout=TIMEOUT)
    found = disagreements(corpus, safe, name, answers)
    assert [str(d) for d in unexplained(found, reasons())] == []
    assert stale(found, reasons(), name) == []
    assert str(peers.EXECUTED) not in answers, "torch was about to execute a file's payload"


def test_reasons_are_whole() -> None:
    """Each reason names a program that is compared and at least one class, and says something; none is given twice."""
    known = reasons()
    for reason in known:
        assert reason.tool in COMPARED
        assert reason.theirs in {"passes", "objects"}
        assert reason.attacks
        assert len(reason.why) > 20
    told = [(reason.tool, reason.theirs, attack) for reason in known for attack in reason.attacks]
    assert len(told) == len(set(told))


def test_reasons_are_of_this_corpus(corpus: Sequence[CorpusFile]) -> None:
    """A reason for a class that the corpus does not have is a slip of the pen."""
    assert {attack for reason in reasons() for attack in reason.attacks} <= {file.attack for file in corpus}


def test_a_new_disagreement_is_noticed() -> None:
    """A file on which the two part and whose class is not in the list is reported, and so is a reason too many."""
    file = CorpusFile("x.pkl", "malicious", "new trick", "a file")
    found = disagreements([file, file], [False, True], "picklescan", ["0", "2"])
    assert found == [Disagreement(file, "picklescan", "passes"), Disagreement(file, "picklescan", "objects")]
    known = [
        Reason("picklescan", "passes", frozenset({"new trick"}), "it does not know the trick"),
        Reason("picklescan", "passes", frozenset({"old trick"}), "it did not know the trick"),
    ]
    assert unexplained(found, known) == [found[1]]
    assert stale(found, known, "picklescan") == [("old trick", "passes")]
