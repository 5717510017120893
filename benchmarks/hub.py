"""How many bytes and requests a verdict over the network takes: ``python -m benchmarks.hub``.

Full-size files behind a Hub on this machine that counts what it is asked and what it sends, its API, redirections and
listing included. Beside it what picklescan's own scan of such a repository asks this Hub for: whole files, and none of
safetensors. The whole repository is what all other scanners have to be given. Counts, not times.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine, report
from benchmarks.build import DEFAULT_DIR, build, lora_ranks
from benchmarks.peers import python_with
from modelhub import verbs
from modelhub.convert import ConversionOptions, convert
from modelhub.source import find_sources
from tests.hub.server import Blob, Hub, running

MOST_REQUESTS, MOST_BYTES = 12, 2 << 20
"""What the verdict on a checkpoint of 7 GB may take."""


class Case(NamedTuple):
    """A repository: what it is, and its files."""

    title: str
    repo: str
    files: Mapping[str, str]


class Count(NamedTuple):
    """What a verdict took: files judged, requests, bytes sent, bytes of the whole files, the verdicts."""

    files: int
    requests: int
    sent: int
    whole: int
    verdicts: frozenset[str]


def cases(directory: str) -> Iterator[Case]:
    for key, title in (
        ("sd1-ckpt", "SD 1 checkpoint, torch zip"),
        ("sd1-legacy", "SD 1 checkpoint, torch before 1.6"),
        ("sd1-safetensors", "SD 1 checkpoint, safetensors"),
        ("sdxl-ckpt", "SDXL checkpoint, torch zip"),
    ):
        path = build(key, directory)
        yield Case(title, f"bench/{key}", {os.path.basename(path): path})
    folder = build("loras", directory)
    ranks = lora_ranks(100)
    for extension, title in (("pt", "torch zip"), ("safetensors", "safetensors")):
        names = [f"lora-{number:03}-rank{ranks[number]}.{extension}" for number in range(4, 100, 5)]
        files = {name: os.path.join(folder, name) for name in names}
        yield Case(f"{len(names)} SD 1 LoRAs of 1 to 40 MB, {title}", f"bench/loras-{extension}", files)
    pipeline = os.path.join(directory, "sd1-diffusers")
    if not os.path.exists(pipeline):
        convert(build("sd1-ckpt", directory), pipeline, options=ConversionOptions(layout="diffusers"))
    below = sorted(path for path in Path(pipeline).rglob("*") if path.is_file())
    files = {path.relative_to(pipeline).as_posix(): str(path) for path in below}
    yield Case("SD 1 as a diffusers folder", "bench/diffusers", files)


def picklescans_count(hub: Hub, case: Case, python: str) -> tuple[int, int]:
    """Requests and bytes that picklescan, which *python* can import, has of the repository of *case*."""
    before, sent = len(hub.seen), hub.sent
    probe = os.path.join(os.path.dirname(__file__), "probes", "picklescan_hub.py")
    subprocess.run([python, probe, hub.url, case.repo], check=True)
    return len(hub.seen) - before, hub.sent - sent


def count(hub: Hub, case: Case) -> Count:
    """Judge the repository of *case*, as ``modelhub scan hf://...`` does, and count."""
    hub.repo(case.repo, {name: _blob(path) for name, path in case.files.items()})
    before, sent = len(hub.seen), hub.sent
    reports = []
    for found in find_sources([f"hf://{case.repo}"], addresses=True):
        if isinstance(found, Exception):
            raise found
        reports.append(verbs.scan(found.path))
    whole = sum(os.path.getsize(path) for path in case.files.values())
    verdicts = frozenset(each.verdict.label for each in reports)
    return Count(len(reports), len(hub.seen) - before, hub.sent - sent, whole, verdicts)


def _blob(path: str) -> Blob:
    """The file, under a digest of its name: nobody reads gigabytes to count kilobytes."""
    size = os.path.getsize(path)
    if size < 1 << 16:
        return Blob(Path(path).read_bytes())
    return Blob(file=Path(path), claimed=hashlib.sha256(path.encode()).hexdigest())


_PEER = ("picklescan's requests", "picklescan's bytes")


def _of_peer(counted: tuple[int, int] | None) -> tuple[str, str]:
    return ("", "") if counted is None else (str(counted[0]), report.megabytes(counted[1]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=__doc__)
    parser.add_argument("--dir", default=DEFAULT_DIR, help="where the files lie (default: %(default)s)")
    directory = os.path.abspath(parser.parse_args(arguments).dir)
    counts: dict[str, Count] = {}
    peers: dict[str, tuple[int, int] | None] = {}
    python = python_with("picklescan", directory)
    with running() as hub:
        os.environ["HF_ENDPOINT"] = hub.url
        for case in cases(directory):
            counts[case.title] = count(hub, case)
            peers[case.title] = picklescans_count(hub, case, python) if python is not None else None
    rows = [
        [
            title,
            str(each.files),
            str(each.requests),
            f"{each.requests / each.files:.1f}",
            f"{each.sent / 1e3:,.0f} kB",
            *_of_peer(peers[title]),
            report.megabytes(each.whole),
            f"1 / {each.whole / each.sent:,.0f}",
        ]
        for title, each in counts.items()
    ]
    largest = counts["SDXL checkpoint, torch zip"]
    report.write(
        "hub.md",
        [
            "# Verdicts over the network",
            "",
            *(__doc__ or "").partition("\n\n")[2].strip().splitlines(),
            "",
            *machine.description(directory, ("huggingface_hub", "httpx2")),
            "",
            *report.table(
                ("repository", "verdicts", "requests", "for each", "bytes sent", *_PEER, "whole files", "part"), rows
            ),
            "",
            f"* The 7 GB checkpoint with at most {MOST_REQUESTS} requests and {MOST_BYTES / 1e6:.1f} MB: "
            f"{report.judged(largest.requests <= MOST_REQUESTS and largest.sent <= MOST_BYTES)}.",
            f"* Every verdict `safe`, as of the same files here: "
            f"{report.judged(all(each.verdicts == {'safe'} for each in counts.values()))}.",
        ],
    )


if __name__ == "__main__":
    main()
