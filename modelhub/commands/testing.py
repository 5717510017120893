"""What the commands that run models share: how models are run, and which of the catalog's they are."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from modelhub.commands.filters import catalog_option, open_catalog, open_settled_catalog
from modelhub.report.sink import Sink

if TYPE_CHECKING:
    from modelhub.db import Catalog
    from modelhub.smoke import Preset


_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def _device(name: str, option: str) -> str:
    """*name*, if it is one of a device."""
    if not _DEVICE.fullmatch(name):
        raise click.BadParameter(f"{name!r:.60} is none of auto, cpu, cuda, cuda:1, mps", param_hint=option)
    return name


def several_devices(names: str | None) -> tuple[str, ...]:
    """The devices of ``--devices``, one for each worker."""
    return () if names is None else tuple(_device(name.strip(), "--devices") for name in names.split(","))


def running(command: Callable[..., int]) -> Callable[..., int]:
    """Give *command* the options that say how models are run, joined as ``settings`` and ``limits``; and ``--base`` and
    ``--catalog``."""

    @click.option(
        "--preset",
        type=click.Choice(("quick", "standard", "thorough")),
        default="quick",
        show_default=True,
        help="4 steps at 256 pixels; 20 at the model's own size; that and an image of each prompt at each seed.",
    )
    @click.option("--prompts", "prompts_file", metavar="FILE", help="Take prompts, seeds ... from this TOML file.")
    @click.option("--steps", type=click.IntRange(1, 150), help="Steps of sampling.")
    @click.option("--size", type=click.IntRange(64, 2048), help="Pixels of a side, a multiple of 64.")
    @click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of the noise. [default: 0]")
    @click.option(
        "--device",
        metavar="NAME",
        default="auto",
        show_default=True,
        callback=lambda _context, _option, value: _device(value, "--device"),
        help="Where to run: cpu, cuda, cuda:1, mps; auto takes a CUDA device if there is one.",
    )
    @click.option(
        "--dtype",
        type=click.Choice(("auto", "fp32", "bf16", "fp16")),
        default="auto",
        show_default=True,
        help="Element type to run in; auto is fp16 on a GPU (bf16 for SD 3 and FLUX.1), and on a CPU bf16 if it knows "
        "it, else fp32.",
    )
    @click.option(
        "--base",
        metavar="FILE|RECORD",
        help="Put adapters on this model, and take from it what parts lack. [default: one of the catalog]",
    )
    @click.option("--tokenizer", metavar="DIR", help="Read prompts with the vocabulary in DIR. [default: CLIP's own]")
    @click.option(
        "--timeout", type=click.FloatRange(1), default=1800, show_default=True, help="Seconds that one model may take."
    )
    @click.option(
        "--max-memory", metavar="SIZE", help="Memory that one model may take on a CPU (16GB). [default: by file]"
    )
    @catalog_option
    @functools.wraps(command)
    def run(
        *args: Any,
        preset: str,
        prompts_file: str | None,
        steps: int | None,
        size: int | None,
        seed: int | None,
        device: str,
        dtype: str,
        tokenizer: str | None,
        timeout: float,
        max_memory: str | None,
        **kwargs: Any,
    ) -> int:
        from modelhub.smoke import Limits, Settings

        if size is not None and size % 64:
            raise click.BadParameter("a multiple of 64 is needed", param_hint="--size")
        settings = Settings(
            preset=cast("Preset", preset),
            steps=steps,
            size=size,
            seed=seed,
            device=device,
            dtype=dtype,
            tokenizer=_vocabulary(tokenizer),
        )
        if prompts_file is not None:
            from modelhub.smoke.prompts import with_prompts

            settings = with_prompts(settings, prompts_file)
        return command(*args, settings=settings, limits=Limits(timeout, _bytes(max_memory)), **kwargs)

    return run


def catalog_for_tests(url: str | None, sink: Sink, *, needed: bool) -> Catalog:
    """The catalog that tests are kept in; where there is none and it is not *needed*, an empty one stands in for it."""
    from modelhub.config import load_settings

    if needed or url is not None:
        return open_catalog(url, sink)
    return open_settled_catalog(load_settings(catalog=url), sink, make=False)


def path_of(argument: str, catalog: Catalog) -> str:
    """*argument* where it is a path or a pattern, else where the record that it names lies, if it names one."""
    from modelhub.errors import CatalogError, Conflict

    if argument == "-" or os.path.lexists(argument) or any(mark in argument for mark in "*?["):
        return argument
    try:
        entry = catalog.show(argument).entry
    except Conflict as error:
        if "records fit" in str(error):
            raise
        return argument
    if entry.path is None:
        raise CatalogError(f"{argument}: its file is gone")
    return entry.path


def paths_of(arguments: Sequence[str], catalog: Catalog) -> list[str]:
    """:func:`path_of` each of *arguments*."""
    return [path_of(each, catalog) for each in arguments]


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    from modelhub.convert import byte_count

    return byte_count(text)


def _vocabulary(folder: str | None) -> str | None:
    """The folder with the vocabulary that *folder* is or has, as an absolute path.

    Raises :class:`~modelhub.errors.NotFound` where there is none.
    """
    if folder is None:
        return None
    import os
    from contextlib import ExitStack

    from modelhub.convert.tokenizers import open_vocabulary

    with ExitStack() as stack:
        vocabulary = open_vocabulary(folder, stack)
        return os.path.dirname(os.path.abspath(vocabulary["vocab.json"].name))
