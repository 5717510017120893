"""From paths to a plan: everything that a conversion reads, opened and judged."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from modelhub.container import Container, open_path
from modelhub.convert.base import ConversionPlan
from modelhub.convert.folder_files import NO_FILES, open_beside
from modelhub.convert.names import SALVAGED_KEY
from modelhub.convert.options import ConversionOptions
from modelhub.convert.plan import plan_conversion
from modelhub.errors import ConversionError

Path = str | os.PathLike[str]


def open_plan(
    source_path: Path,
    stack: ExitStack,
    options: ConversionOptions,
    *,
    fix_vae: Path | None = None,
    tokenizer: Path | None = None,
    judge: Callable[[Container], bool],
    anew: bool = False,
) -> tuple[Container, ConversionPlan]:
    """The opened *source_path* and the plan of its conversion with *options*, good until *stack* is closed.

    *judge* says whether a model file is safe, or raises; what comes of one that is not says so in its metadata.
    *fix_vae* and *tokenizer* are those of :func:`modelhub.convert.convert`, *anew* is that of
    :func:`plan_conversion`. Raises what opening and planning raise.
    """
    name = os.fspath(source_path)
    container = stack.enter_context(open_path(name))
    safe = judge(container)
    vae = None
    if fix_vae is not None:
        vae = stack.enter_context(open_path(fix_vae))
        safe = judge(vae) and safe
    identity = None
    if not options.changes_nothing:
        from modelhub.identify import identify

        identity = identify(container)
    metadata = None if safe else {SALVAGED_KEY: "true"}
    beside = open_beside(container, stack) if container.source is None else NO_FILES
    vocabulary = None
    if tokenizer is not None:
        if options.layout != "diffusers" or container.source is None:
            hint = "say --layout diffusers, or leave out --tokenizer"
            raise ConversionError(f"{name}: only a checkpoint that becomes a folder is given a tokenizer", hint=hint)
        from modelhub.convert.tokenizers import open_vocabulary

        vocabulary = open_vocabulary(tokenizer, stack)
    return container, plan_conversion(
        container, identity, options, metadata=metadata, vae=vae, beside=beside, vocabulary=vocabulary, anew=anew
    )
