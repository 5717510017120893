"""The catalog on a large library: syncs and searches, each as a process of its own.

    python -m benchmarks.catalog --dir build/catalog --files 50000

builds a library of sparse files with the headers of real ones (names, shapes, metadata of trainers), and measures the
first sync, one of an unchanged library, one after 500 moves and 500 replacements, and searches; then, on some of the
files, reading headers beside ``safetensors.safe_open`` and identifying beside diffusers, where they are installed.

Every file has metadata of its own, and one in ten a list of tensors of its own, as LoRAs of some blocks or of uneven
ranks have; the others share theirs, as those of one trainer with its usual settings do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator

from benchmarks import machine, report
from benchmarks.measure import Run, run
from modelhub.container.safetensors import canonical_order, encode_header
from modelhub.samples import layouts
from modelhub.tensors import DTYPE_BY_LABEL, DType

Tensors = list[tuple[str, DType, tuple[int, ...], int]]

WORDS = [f"{a}{b}" for a in "harbour dusk river glass moss woodcut paper neon velvet iron".split() for b in range(60)]
SHARES = (("lora", 0.70), ("own lora", 0.10), ("embedding", 0.10), ("checkpoint", 0.06), ("vae", 0.04))
"""What libraries of tens of thousands of files are made of; an ``own lora`` has a list of tensors like no other's."""

FIRST_SYNC, UNCHANGED, SEARCH, MEMORY = 1500, 1.5, 0.05, 300e6
"""Goals: files a second, seconds, seconds, bytes; those of the syncs are for 50,000 files on two cores."""

RANKS = (4, 8, 16, 32, 64, 128)
TYPES = tuple(DTYPE_BY_LABEL[label] for label in ("F16", "BF16", "F32"))


def tensors_of(layout: dict[str, tuple[DType, tuple[int, ...]]]) -> Tensors:
    """*layout* as a safetensors file has it."""
    found = []
    for name in canonical_order({name: dtype for name, (dtype, _) in layout.items()}):
        dtype, shape = layout[name]
        bits = dtype.bits
        for size in shape:
            bits *= size
        found.append((name, dtype, shape, bits // 8))
    return found


def kinds() -> dict[str, list[Tensors]]:
    """Structures of every kind: LoRAs of several ranks and types with and without text encoder, and so on."""
    f16 = DTYPE_BY_LABEL["F16"]
    return {
        "lora": [
            tensors_of(layouts.lora(base, rank=rank, text_encoder=text, dtype=dtype))
            for base, text in (("sd-1", True), ("sd-1", False), ("sdxl", False))
            for rank in RANKS
            for dtype in TYPES
        ],
        "embedding": [[("emb_params", f16, (vectors, 768), vectors * 768 * 2)] for vectors in range(1, 17)],
        "checkpoint": [tensors_of(layouts.checkpoint("sd-1")), tensors_of(layouts.checkpoint("sdxl"))],
        "vae": [tensors_of(layouts.vae())],
    }


def metadata_of(kind: str, number: int, rng: random.Random) -> dict[str, str]:
    """What a trainer or merger writes; no two files' are the same."""
    title = f"{rng.choice(WORDS)} {rng.choice(WORDS)} {number}"
    if not kind.endswith("lora"):
        return {"modelspec.title": title, "format": "pt"}
    tags = {word: rng.randint(1, 90) for word in rng.sample(WORDS, rng.randint(20, 150))}
    return {
        "ss_output_name": title,
        "ss_tag_frequency": json.dumps({f"10_{rng.choice(WORDS)}": tags}),
        "ss_network_module": "networks.lora",
        "ss_sd_model_name": "v1-5-pruned-emaonly.safetensors",
        "ss_base_model_version": "sd_v1",
        "sshs_model_hash": f"{rng.getrandbits(256):064x}",
        **{f"ss_setting_{index}": str(rng.random()) for index in range(40)},
    }


def own_lora(rng: random.Random) -> Tensors:
    """A LoRA of some of the modules, each with a rank of its own."""
    whole = layouts.lora(rng.choice(("sd-1", "sd-1", "sdxl")), rank=1, text_encoder=False, dtype=rng.choice(TYPES))
    modules = sorted({name.partition(".")[0] for name in whole})
    chosen = {module: rng.choice(RANKS) for module in rng.sample(modules, rng.randint(8, len(modules)))}
    ranked = {}
    for name, (dtype, shape) in whole.items():
        module, _, leaf = name.partition(".")
        if (rank := chosen.get(module)) is not None:
            axis = {"lora_down.weight": 0, "lora_up.weight": 1}.get(leaf)
            ranked[name] = dtype, tuple(rank if number == axis else size for number, size in enumerate(shape))
    return tensors_of(ranked)


def write(path: str, tensors: Tensors, metadata: dict[str, str]) -> None:
    """A file of the right size whose tensors are holes."""
    head = encode_header(tensors, metadata)
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(nbytes for *_, nbytes in tensors))


def build(folder: str, files: int) -> None:
    """Fill *folder* with a library of *files* files in folders of some hundred."""
    rng = random.Random(5)
    structures = kinds()
    names = rng.choices([name for name, _ in SHARES], [share for _, share in SHARES], k=files)
    for number, kind in enumerate(names):
        below = os.path.join(folder, kind, f"{number // 400:03}")
        if number % 400 == 0 or not os.path.isdir(below):
            os.makedirs(below, exist_ok=True)
        path = os.path.join(below, f"{rng.choice(WORDS)}-{number}.safetensors")
        write(
            path, own_lora(rng) if kind == "own lora" else rng.choice(structures[kind]), metadata_of(kind, number, rng)
        )


def paths_of(folder: str) -> Iterator[str]:
    for below, _, names in os.walk(folder):
        for name in sorted(names):
            yield os.path.join(below, name)


def stir(folder: str, number: int) -> None:
    """Move *number* files and replace as many others."""
    rng = random.Random(6)
    structures = kinds()
    chosen = rng.sample(sorted(paths_of(folder)), 2 * number)
    os.makedirs(os.path.join(folder, "moved"), exist_ok=True)
    for path in chosen[:number]:
        os.rename(path, os.path.join(folder, "moved", "renamed " + os.path.basename(path)))
    for index, path in enumerate(chosen[number:]):
        os.unlink(path)
        write(path, rng.choice(structures["lora"]), metadata_of("lora", 10**6 + index, rng))


def searches(catalog: str, rounds: int = 15) -> dict[str, float]:
    """Median seconds of a search of each sort, the catalog being open."""
    from modelhub.db import Catalog, Query

    rng = random.Random(7)
    with Catalog.open(catalog) as opened:
        some = opened.entries(Query(limit=400))
        for entry in rng.sample(some, min(20, len(some))):
            opened.tag(f"#{entry.id}", ["chosen"])
        claimed = opened.show(f"#{next(entry.id for entry in some if entry.kind == 'lora')}").digests[0].value
        queries = {
            "a word of the name": lambda: Query(text=f"{rng.choice(WORDS)}-{rng.randint(1, 99)}", limit=50),
            "part of a word of the name": lambda: Query(text=rng.choice(WORDS)[1:5], limit=50),
            "a word of the metadata": lambda: Query(text=f"networks.lora {rng.choice(WORDS)}", limit=50),
            "the beginning of a digest": lambda: Query(digest=claimed[: rng.randint(6, 12)], limit=50),
            "a tag": lambda: Query(tag="chosen", limit=50),
            "kind and architecture, by size": lambda: Query(kind="lora", architecture="sdxl", sort="-size", limit=50),
        }
        found = {}
        for name, query in queries.items():
            times = []
            for _ in range(rounds):
                asked = query()
                start = time.perf_counter()
                opened.entries(asked)
                times.append(time.perf_counter() - start)
            found[name] = sorted(times)[len(times) // 2]
        return found


def modelhub(*arguments: str) -> Run:
    done = run([sys.executable, "-m", "modelhub", *arguments])
    if done.exit_code != 0:
        raise RuntimeError(f"modelhub {' '.join(arguments)} ended with {done.exit_code}")
    return done


def peers(folder: str, number: int) -> list[str]:
    """Milliseconds a file for headers and for identification, beside those who do the same."""
    from modelhub.container import open_path
    from modelhub.identify import identify

    paths = random.Random(8).sample(sorted(paths_of(folder)), number)
    rows = []

    def measured(name: str, work: object) -> None:
        start = time.perf_counter()
        for path in paths:
            work(path)  # type: ignore[operator]
        rows.append(f"| {name} | {(time.perf_counter() - start) / number * 1000:.2f} ms |")

    def ours(path: str) -> None:
        with open_path(path):
            pass

    def ours_identified(path: str) -> None:
        with open_path(path) as container:
            identify(container)

    measured("modelhub: header read and checked", ours)
    measured("modelhub: read, checked and identified", ours_identified)
    try:
        from safetensors import safe_open
    except ImportError:
        return rows

    def shapes(path: str) -> dict[str, list[int]]:
        with safe_open(path, "np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118

    measured("safetensors.safe_open: names and shapes", shapes)
    try:
        import torch
        from diffusers.loaders.single_file_utils import infer_diffusers_model_type
    except ImportError:
        return rows

    def theirs(path: str) -> None:
        infer_diffusers_model_type({name: torch.empty(shape, device="meta") for name, shape in shapes(path).items()})

    measured("diffusers.infer_diffusers_model_type, on what safe_open gives", theirs)
    return rows


def measure(folder: str, files: int) -> list[str]:
    """Build, measure, and answer with the tables and which goals were met."""
    library, catalog = os.path.join(folder, "library"), os.path.join(folder, "catalog.db")
    for leftover in (catalog, f"{catalog}-wal", f"{catalog}-shm"):
        if os.path.exists(leftover):
            os.unlink(leftover)
    shutil.rmtree(library, ignore_errors=True)
    os.makedirs(library)
    build(library, files)
    modelhub("library", "add", library, "--catalog", catalog)
    rows = ["| what | time | per second | memory |", "|---|---:|---:|---:|"]

    memory = 0

    def timed(name: str, done: Run, number: int) -> float:
        nonlocal memory
        memory = max(memory, done.peak_memory)
        rows.append(f"| {name} | {done.wall:.2f} s | {number / done.wall:,.0f} | {done.peak_memory / 1e6:.0f} MB |")
        return done.wall

    sync = ("library", "sync", "--catalog", catalog, "-q", "-o", os.devnull)
    first = timed(f"first sync of {files:,} files", modelhub(*sync), files)
    unchanged = timed("sync with nothing changed", modelhub(*sync), files)
    stirred = min(500, files // 4)
    stir(library, stirred)
    timed(f"sync after {stirred} moves and {stirred} replacements", modelhub(*sync), files)
    timed("modelhub search, a whole process", modelhub("search", "harbour7", "--limit", "50", "--catalog", catalog), 1)
    rows += ["", "| search | median |", "|---|---:|"]
    found = searches(catalog)
    rows += [f"| {name} | {seconds * 1000:.1f} ms |" for name, seconds in found.items()]
    rows += ["", "| one file | time |", "|---|---:|", *peers(library, min(200, files))]
    rows += ["", f"The catalog takes {os.path.getsize(catalog) / 1e6:,.0f} MB."]
    rows += [
        "",
        f"* At least {FIRST_SYNC:,} files a second at first: {report.judged(files / first >= FIRST_SYNC)}.",
        f"* {files:,} unchanged files in {UNCHANGED} s: {report.judged(unchanged <= UNCHANGED)}.",
        f"* Each search in {SEARCH * 1000:.0f} ms: {report.judged(max(found.values()) <= SEARCH)}.",
        f"* Under {report.megabytes(MEMORY)}: {report.judged(memory < MEMORY)}.",
        "",
        "Every file has metadata of its own; one in ten is a LoRA with a list of tensors that no other has, the others",
        "share 54 lists of LoRAs, 16 of embeddings, 2 of checkpoints and one of a VAE.",
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", default="build/catalog")
    parser.add_argument("--files", type=int, default=50_000)
    options = parser.parse_args()
    os.makedirs(options.dir, exist_ok=True)
    found = measure(os.path.abspath(options.dir), options.files)
    title = f"# The catalog on a library of {options.files:,} files"
    about = machine.description(options.dir, ("sqlalchemy", "safetensors", "diffusers"))
    report.write("catalog.md", [title, "", "`python -m benchmarks.catalog`", "", *found, "", *about])
    shutil.rmtree(os.path.join(options.dir, "library"), ignore_errors=True)


if __name__ == "__main__":
    main()
