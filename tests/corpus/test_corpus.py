"""The corpus, judged: nothing malicious is safe, nothing benign is anything else."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from modelhub.container import open_path
from modelhub.scan import Verdict, scan
from tests.corpus import CorpusFile, build, items


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> list[tuple[CorpusFile, Verdict]]:
    found = []
    for file in build(tmp_path_factory.mktemp("corpus")):
        with open_path(file.path) as container:
            found.append((file, scan(container).verdict))
    return found


def test_the_corpus_is_broad(judged):
    """Hundreds of files, of every label, over many classes of attack, each with a place and a reason of its own."""
    labels = Counter(file.label for file, _ in judged)
    assert labels["malicious"] > 500 and labels["benign"] > 100 and labels["broken"] > 25
    assert len({file.attack for file, _ in judged}) > 80
    assert len({file.path for file, _ in judged}) == len(judged)
    assert all(file.what for file, _ in judged)


def test_nothing_malicious_is_safe(judged):
    """Every malicious file is flagged: UNKNOWN, SUSPICIOUS or UNSAFE."""
    assert [file for file, verdict in judged if file.label == "malicious" and verdict is Verdict.SAFE] == []


def test_most_of_the_malicious_is_called_so(judged):
    """At least 95 of 100 malicious files are SUSPICIOUS or UNSAFE, and 85 are UNSAFE."""
    verdicts = [verdict for file, verdict in judged if file.label == "malicious"]
    assert sum(verdict >= Verdict.SUSPICIOUS for verdict in verdicts) >= 0.95 * len(verdicts)
    assert sum(verdict is Verdict.UNSAFE for verdict in verdicts) >= 0.85 * len(verdicts)


def test_everything_benign_is_safe(judged):
    """No ordinary file is cried wolf at."""
    assert [file for file, verdict in judged if file.label == "benign" and verdict is not Verdict.SAFE] == []


def test_broken_files_are_neither_safe_nor_malware(judged):
    """A broken download, a foreign file and a whole network are UNKNOWN."""
    wrong = [(file.what, v) for file, v in judged if file.label == "broken" and v is not Verdict.UNKNOWN]
    assert wrong == []


def test_two_builds_are_the_same():
    """The corpus is the same bytes each time, so that results can be compared."""
    digests = [[hashlib.sha256(item.data).digest() for _, item in items()] for _ in range(2)]
    assert digests[0] == digests[1]
