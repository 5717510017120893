"""Turning a checkpoint into safetensors without executing anything of it.

A conversion is planned (:func:`plan_conversion`, pure), carried out (:func:`execute`) and proved (:func:`verify`, a
part of executing). Only bytes that the file's description of itself calls tensor data are copied, so the result is
safe by construction, even that of a file that is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from modelhub.container import Container
from modelhub.convert.base import (
    Assembly,
    Conversion,
    ConversionPlan,
    Integrity,
    OutputDigests,
    OutputFile,
    Piece,
    PlainFile,
    PlannedTensor,
    inside,
)
from modelhub.convert.execute import check_target, execute
from modelhub.convert.names import SALVAGED_KEY, SHARED_KEY
from modelhub.convert.opening import open_plan
from modelhub.convert.options import NO_OPTIONS, ConversionOptions, DTypeRule, byte_count, dtype_rule, metadata_pair
from modelhub.convert.plan import plan_conversion
from modelhub.convert.receipt import check_receipt_target, receipt_path, write_receipt
from modelhub.convert.safety import judge
from modelhub.convert.target import write_error
from modelhub.convert.verify import holds, verify
from modelhub.errors import AlreadyThere, ConversionError, ModelHubError
from modelhub.source import MODEL_EXTENSIONS

if TYPE_CHECKING:
    from modelhub.scan import Policy

__all__ = [
    "SALVAGED_KEY",
    "SHARED_KEY",
    "Assembly",
    "Conversion",
    "ConversionOptions",
    "ConversionPlan",
    "DTypeRule",
    "Integrity",
    "OutputDigests",
    "OutputFile",
    "Piece",
    "PlainFile",
    "PlannedTensor",
    "byte_count",
    "convert",
    "default_target",
    "dtype_rule",
    "execute",
    "holds",
    "inside",
    "judge",
    "metadata_pair",
    "plan_conversion",
    "receipt_path",
    "verify",
]

Path = str | os.PathLike[str]


def convert(
    source_path: Path,
    target_path: Path | None = None,
    *,
    options: ConversionOptions = NO_OPTIONS,
    fix_vae: Path | None = None,
    tokenizer: Path | None = None,
    in_place: bool = False,
    delete_source: bool = False,
    force: bool = False,
    salvage: bool = False,
    policy: Policy | None = None,
    dry_run: bool = False,
    digests: bool = False,
    receipt: bool = False,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
    on_verify: Callable[[int], None] | None = None,
) -> Conversion | ConversionPlan:
    """Convert *source_path*, a file or a folder of model files, to safetensors if it is safe; *dry_run*: plan it only.

    *target_path* is a file, an existing folder, or, with a slash in the end, one that is made; by default
    :func:`default_target`. *force* replaces the file that is there; with *resume* one that is what would be written is
    kept, and :class:`AlreadyThere` raised. *options* say what is changed on the way; *fix_vae* is a file whose VAE is
    put into the checkpoint, *tokenizer* a folder with the vocabulary that a diffusers folder is to have. *salvage* also
    converts files whose verdict is not SAFE and says so in the metadata. *in_place* rewrites a .safetensors file under
    its own name, *delete_source* removes the source: both only after the output was verified. With *digests* the
    SHA-256 of the sources and the output are computed on the way, with *receipt* those of all tensors too, and written
    beside the output (:mod:`modelhub.convert.receipt`). *progress* is told bytes as they are written, *on_verify* those
    of tensors as they are compared. Raises :class:`UnsafeModelError` for a file that is not safe, and what
    :func:`plan_conversion` and :func:`execute` raise.
    """
    name = os.fspath(source_path)
    with ExitStack() as stack:
        container, plan = open_plan(
            name,
            stack,
            options,
            fix_vae=fix_vae,
            tokenizer=tokenizer,
            judge=lambda each: judge(each, policy, salvage=salvage, dense=options.dense),
        )
        wanted = None if target_path is None else os.fspath(target_path)
        if in_place:
            _check_in_place(container, plan, target_path, delete_source=delete_source)
            target = name
        else:
            target = default_target(name, wanted, folder=plan.is_folder)
        if (in_place or delete_source) and os.path.islink(name):
            note = f"{name} is a link: what it leads to, {os.path.realpath(name)}, stays as it was"
            plan = replace(plan, notes=(*plan.notes, note))
        if delete_source and container.source is None:
            raise ConversionError(f"{name}: a folder is not deleted", hint="leave out --delete-source")
        if resume and not (force or in_place) and os.path.lexists(target) and holds(target, plan):
            raise AlreadyThere(f"{target}: it is already what {name} becomes")
        if dry_run:
            if wanted is None or not _names_folder(wanted):
                check_target(plan, target, force=force, in_place=in_place)
            return plan
        if receipt:
            check_receipt_target(target)
        done = execute(
            plan,
            target,
            force=force,
            in_place=in_place,
            make_parents=wanted is not None and _names_folder(wanted),
            digests=digests,
            tensor_digests=receipt,
            progress=progress,
            on_verify=on_verify,
        )
        if receipt:
            try:
                write_receipt(done, options)
            except ModelHubError as error:
                error.hint = f"{target} itself is there, and verified"
                raise
    if delete_source:
        try:
            os.unlink(name)
        except OSError as error:
            raise write_error(error, name) from error
    return done


def default_target(source_path: str, target_path: str | None = None, *, folder: bool = False) -> str:
    """Where converting *source_path* writes: *target_path*, inside it where that is a folder, by default beside itself.

    ``model.vae.pt`` becomes ``model.vae.safetensors``, or with *folder* (several files) ``model.vae``; an ending that
    no model file has is kept as a part of the name. A folder ``model`` becomes ``model-safetensors``, or as one file
    ``model.safetensors``.
    """
    stem, extension = os.path.splitext(source_path)
    if os.path.isdir(source_path):
        stem = source_path.rstrip(os.sep) + ("-safetensors" if folder else "")
    elif extension.lower() not in MODEL_EXTENSIONS:
        stem = source_path
    ending = "" if folder else ".safetensors"
    if target_path is None:
        return f"{stem}{ending}"
    if os.path.isdir(target_path) or _names_folder(target_path):
        return os.path.join(target_path, f"{os.path.basename(stem)}{ending}")
    return target_path


def _names_folder(path: str) -> bool:
    return path.endswith((os.sep, "/"))


def _check_in_place(
    container: Container, plan: ConversionPlan, target_path: Path | None, *, delete_source: bool
) -> None:
    name = container.name
    if delete_source:
        hint = "leave out --delete-source"
        raise ConversionError(f"{name}: converted in place, it is replaced, and there is nothing to delete", hint=hint)
    if target_path is not None:
        hint = "leave out --in-place, or the target's name"
        raise ConversionError(f"{name}: converted in place, it cannot have another target as well", hint=hint)
    if default_target(name) != name:
        hint = "leave out --in-place"
        if container.source is not None:
            hint += "; --delete-source removes the source after the conversion"
        raise ConversionError(f"{name}: only a .safetensors file can be rewritten under its own name", hint=hint)
    if plan.is_folder:
        raise ConversionError(f"{name}: several files cannot take the place of one", hint="name a new folder")
