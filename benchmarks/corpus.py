"""What each scanner makes of the corpus: ``python -m benchmarks.corpus``.

The corpus (`tests/corpus`) is written by modelhub's own tests: malicious files after every published trick we know,
the ordinary files that people have, and broken ones. Each scanner examines each file on its own, as its command line
does, in a process of its own that is forked from one with the scanner loaded. Its exit code is its answer: 0 nothing
found, 1 something found; any other code, an uncaught exception and a time-out are no answer.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from benchmarks import machine, peers, report
from benchmarks.build import DEFAULT_DIR
from benchmarks.peers import OURS, Tool
from tests.corpus import CorpusFile, build

PASSED, OBJECTED = "0", "1"
TIMEOUT = 60.0

Answers = Mapping[str, Sequence[str]]
"""By tool, its answer to each file of the corpus in order."""


def built(directory: str) -> list[CorpusFile]:
    """The corpus, written afresh below *directory*."""
    folder = os.path.join(directory, "corpus")
    shutil.rmtree(folder, ignore_errors=True)
    return build(folder)


def ask(tools: Sequence[Tool], files: Sequence[CorpusFile], directory: str) -> dict[str, list[str]]:
    """What each of *tools* says of each of *files*."""
    answers: dict[str, list[str]] = {}
    for tool in tools:
        start = time.perf_counter()
        paths = [file.path for file in files]
        answers[tool.name] = peers.answers(tool, paths, directory, timeout=TIMEOUT, jobs=os.cpu_count() or 1)
        print(f"{tool.name}: {len(files)} files, {time.perf_counter() - start:.0f} s", flush=True)
    return answers


def counts(files: Sequence[CorpusFile], answers: Sequence[str], chosen: Callable[[CorpusFile], bool]) -> Counter[str]:
    """How often each kind of answer came for the *chosen* files: ``passed``, ``objected``, ``none``."""
    kinds = {PASSED: "passed", OBJECTED: "objected"}
    pairs = zip(files, answers, strict=True)
    return Counter(kinds.get(answer, "none") for file, answer in pairs if chosen(file))


def summary(files: Sequence[CorpusFile], answers: Answers) -> list[str]:
    """The table of all labels: one row per tool."""
    rows = []
    for name, given in answers.items():
        by_label = {
            label: counts(files, given, lambda file, label=label: file.label == label)  # type: ignore[misc]
            for label in ("malicious", "benign", "broken")
        }
        bad, good, broken = by_label["malicious"], by_label["benign"], by_label["broken"]
        rows.append(
            (
                f"`{name}`",
                f"{bad['objected']} ({report.percent(bad['objected'], bad.total())})",
                str(bad["passed"]),
                str(bad["none"]),
                str(good["passed"]),
                f"{good['objected']} ({report.percent(good['objected'], good.total())})",
                str(good["none"]),
                str(broken["passed"]),
            )
        )
    total = Counter(file.label for file in files)
    columns = (
        "",
        f"malicious ({total['malicious']}): detected",
        "missed (exit 0)",
        "no answer",
        f"benign ({total['benign']}): passed",
        "false alarm",
        "no answer",
        f"broken ({total['broken']}): passed (exit 0)",
    )
    return report.table(columns, rows)


def by_attack(files: Sequence[CorpusFile], answers: Answers, label: str) -> list[str]:
    """One row per class of attack or sort of file: how many ended wrongly, per tool."""
    attacks = sorted({file.attack for file in files if file.label == label})
    rows = []
    for attack in attacks:
        cells = []
        for given in answers.values():
            found = counts(files, given, lambda file, attack=attack: file.label == label and file.attack == attack)  # type: ignore[misc]
            cells.append(f"{found['objected']} / {found['passed']} / {found['none']}")
        rows.append((attack, str(found.total()), *cells))
    return report.table(("", "files", *(f"`{name}`" for name in answers)), rows)


def promises(files: Sequence[CorpusFile], given: Sequence[str]) -> list[str]:
    """Whether modelhub does what it promises of the corpus."""
    bad = counts(files, given, lambda file: file.label == "malicious")
    good = counts(files, given, lambda file: file.label == "benign")
    missed = [file.what for file, answer in zip(files, given, strict=True) if _missed(file, answer)]
    lines = [
        f"* All malicious files not safe: {report.judged(not bad['passed'])}.",
        f"* At least 95% of them unsafe or suspicious: {report.judged(bad['objected'] >= 0.95 * bad.total())} "
        f"({report.percent(bad['objected'], bad.total())}); the others are unknown.",
        f"* No benign file worse than safe: {report.judged(good['passed'] == good.total())}"
        + (f" ({good['objected']} alarms, {good['none']} unknown)." if good["passed"] < good.total() else "."),
    ]
    return lines + [f"* Missed: {what}." for what in missed]


def _missed(file: CorpusFile, answer: str) -> bool:
    return file.label == "malicious" and answer == PASSED


def write_answers(files: Sequence[CorpusFile], answers: Answers) -> None:
    """Every answer to every file, for those who want to look: ``corpus.csv`` among the results."""
    with open(os.path.join(report.RESULTS, "corpus.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["label", "attack", "what", *answers])
        for number, item in enumerate(files):
            writer.writerow([item.label, item.attack, item.what, *(given[number] for given in answers.values())])


NOTES = (
    "modelhub: detected means suspicious or unsafe, no answer means unknown (exit 2), which is never to be loaded.",
    "The corpus is ours, so it knows the tricks that we know: it shows what a class of attack does to each scanner, "
    "and is no sample of what is out there. Several scanners never meant to examine some of these kinds of files.",
    "No answer: the scanner failed, timed out or says that it examined nothing; its exit code tells a careful caller.",
    "`fickling` is its command line (`--check-safety`), which reads bare pickles only; `fickling API` are its "
    "functions `scan_zip_archive` and `scan_file`.",
    "`modelaudit` runs with its telemetry off (`PROMPTFOO_DISABLE_TELEMETRY=1`), without its cache and without torch "
    "beside it; its verdicts change with what is installed.",
    "`torch weights_only` is `torch.load(weights_only=True)`: detected means that it refuses to load, passed that it "
    "loads. It is no scanner; we count it because it is what many rely on.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where corpus and scanners lie (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="do not install and ask the other scanners")
    options = parser.parse_args(arguments)
    directory = os.path.abspath(options.dir)
    installed = [] if options.no_peers else peers.install(directory)
    tools = [peers.ours(), *peers.tools(directory, installed)]
    if not options.no_peers:
        tools.append(peers.torch_weights_only())
    files = built(directory)
    answers = ask(tools, files, directory)
    table = [*summary(files, answers), "", *promises(files, answers[OURS])]
    circumstances = [
        *machine.description(directory, ("torch",)),
        f"* {peers.versions(installed)}" if installed else "* no peers",
    ]
    lines = ["# Detection", "", *__doc__.splitlines()[2:], "", *table, "", *(f"* {note}" for note in NOTES)]
    for label, heading in (("malicious", "Malicious files"), ("benign", "Benign files"), ("broken", "Broken files")):
        lines += ["", f"## {heading}", "", "Found something / found nothing / no answer.", ""]
        lines += by_attack(files, answers, label)
    write_answers(files, answers)
    report.write("corpus.md", [*lines, "", *circumstances])
    if len(installed) == len(peers.PEERS):
        report.embed("corpus", [*table, "", *(f"* {note}" for note in NOTES), "", *circumstances])


if __name__ == "__main__":
    main()
