"""Whole runs: many programs, many broken files, and what was found of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickletools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from fuzz.examiner import SECONDS
from fuzz.mutations import mutated
from fuzz.originals import originals
from fuzz.programs import Case, case_of, with_chunks
from fuzz.shrink import shrunk
from fuzz.truth import Judgement, Violation, judge, request, violations
from fuzz.workers import Worker

_BATCH = 200
_SHRUNK = 5  # reproducers of each rule in one run
SANDBOX, EXAMINER = "fuzz.sandbox", "fuzz.examiner"


@dataclass(frozen=True, slots=True)
class Found:
    """Something that may not be: the rule it breaks, how, and the smallest file that shows it."""

    rule: str
    what: str
    data: bytes
    seed: str

    def save(self, folder: str) -> str:
        """Write the file, and a text about it beside it, into *folder*; returns the file's path."""
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{self.rule}-{hashlib.sha256(self.data).hexdigest()[:12]}")
        with open(f"{path}.bin", "wb") as file:
            file.write(self.data)
        with open(f"{path}.txt", "w", encoding="utf-8", errors="backslashreplace") as text:
            text.write(f"{self.rule}: {self.what}\nseed {self.seed}\n\n{_disassembled(self.data)}")
        return f"{path}.bin"


@dataclass(slots=True)
class Summary:
    """What a run came to: how many of what verdict, what the unpicklers did, and what was found."""

    count: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        self.count += other.count
        self.verdicts += other.verdicts
        self.seen += other.seen
        self.found += other.found


def run_programs(seed: str, numbers: Iterable[int]) -> Summary:
    """Generate, unpickle and judge the programs *numbers* of *seed*."""
    summary = Summary()
    rules: Counter[str] = Counter()
    with Worker(SANDBOX) as sandbox:
        for batch in _batches(numbers):
            cases = [case_of(f"{seed}:{number}") for number in batch]
            answers = sandbox.ask([request(case) for case in cases])
            judged = [_judged(case) for case in cases]
            for case, judgement, seen in zip(cases, judged, answers, strict=True):
                summary.count += 1
                broken = {each.property for each in _violations(case, judgement, seen)}
                rules.update(broken)
                summary.found += [_reproducer(case, rule) for rule in broken if rules[rule] <= _SHRUNK]
                if isinstance(judgement, Judgement):
                    _tally(summary, case, judgement, seen)
    return summary


def run_files(seed: str, numbers: Iterable[int], examiner: str = EXAMINER) -> Summary:
    """Break and examine the files *numbers* of *seed*."""
    summary = Summary()
    rules: Counter[str] = Counter()
    files = originals()
    with Worker(examiner) as worker:
        for batch in _batches(numbers):
            broken = [mutated(Random(f"{seed}:{number}"), files) for number in batch]  # noqa: S311 - not for secrets
            answers = worker.ask([_file_request(name, data) for name, data in broken])
            for number, (name, data), answer in zip(batch, broken, answers, strict=True):
                summary.count += 1
                summary.verdicts[answer.get("verdict") or "none"] += 1
                rule = wrong_with(answer)
                if rule is not None:
                    rules[rule] += 1
                if rule is not None and rules[rule] <= _SHRUNK:
                    summary.found.append(_broken_file(examiner, (name, data), rule, answer, f"{seed}:{number}"))
    return summary


def wrong_with(answer: Mapping[str, Any]) -> str | None:
    """What an examiner's *answer* shows to be wrong, in a word."""
    if "failed" in answer:
        return "hang" if answer["failed"] == "hang" else "died"
    if answer["error"] is not None:
        return "memory" if "MemoryError" in answer["error"] else "exception"
    return "slow" if answer["seconds"] > SECONDS else None


def _judged(case: Case) -> Judgement | Violation:
    try:
        return judge(case)
    except Exception as problem:
        return Violation("crash", f"{type(problem).__name__}: {problem}")


def _violations(case: Case, judgement: Judgement | Violation, seen: dict[str, Any]) -> list[Violation]:
    return [judgement] if isinstance(judgement, Violation) else list(violations(case, judgement, seen))


def _tally(summary: Summary, case: Case, judgement: Judgement, seen: Mapping[str, Any]) -> None:
    summary.verdicts[judgement.report.verdict.label] += 1
    summary.seen[f"profile {case.profile}"] += 1
    summary.seen[f"file {case.wrapping}"] += 1
    if "failed" in seen:
        summary.seen["did not come back"] += 1
        return
    summary.seen["finished"] += seen["inert"]["finished"] == case.loads
    summary.seen.update({effect[0] for effect in seen["inert"]["effects"] + seen["real"]["effects"]})
    for trace in judgement.traces:
        summary.seen.update({odd.rule for odd in trace.anomalies})


def _reproducer(case: Case, rule: str) -> Found:
    """The smallest case like *case* that breaks *rule*."""
    with Worker(SANDBOX) as sandbox:

        def broken(tried: Case) -> str | None:
            seen = next(sandbox.ask([request(tried)]))
            shown = _violations(tried, _judged(tried), seen)
            return next((each.what for each in shown if each.property == rule), None)

        alone = replace(case, programs=case.programs[:1])
        if broken(alone) is not None:
            case = alone
        chunks = shrunk(case.programs[0], lambda tried: broken(with_chunks(case, tried)) is not None)
        case = with_chunks(case, chunks)
        return Found(rule, broken(case) or "not shown a second time", case.file, case.seed)


def _broken_file(examiner: str, file: tuple[str, bytes], rule: str, answer: Mapping[str, Any], seed: str) -> Found:
    """The smallest part of *file* of which the examiner's answer breaks the same *rule*."""
    name, data = file
    with Worker(examiner) as worker:

        def shows(tried: bytes) -> bool:
            return wrong_with(next(worker.ask([_file_request(name, tried)]))) == rule

        smallest = shrunk(data, shows, most=0 if rule in ("hang", "slow") else 400)
    what = answer.get("error") or answer.get("failed") or f"{answer['seconds']:.1f} s"
    return Found(rule, f"{name}: {what}", smallest, seed)


def _file_request(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "data": data.decode("latin-1")}


def _batches(numbers: Iterable[int]) -> Iterable[list[int]]:
    listed = list(numbers)
    return [listed[at : at + _BATCH] for at in range(0, len(listed), _BATCH)]


def _disassembled(data: bytes) -> str:
    """The pickles in *data*, one after another, as far as ``pickletools`` follows them."""
    stream = io.BytesIO(data[data.find(b"data.pkl") + 8 :] if data.startswith(b"PK") else data)
    out = io.StringIO()
    with contextlib.suppress(Exception):
        while True:
            pickletools.dis(stream, out)
    return out.getvalue()
