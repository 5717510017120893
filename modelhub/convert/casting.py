"""Which tensors change their element type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from modelhub.convert.base import Assembly, Draft
from modelhub.convert.casts import check_casts_are_possible
from modelhub.convert.components import component_named, component_of, is_part
from modelhub.convert.options import DTypeRule
from modelhub.tensors import DType

_SCHEDULE = frozenset(
    """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
    log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
    posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 lvlb_weights sigmas log_sigmas""".split()
)
"""Buffers of the noise schedule (``ldm.models.diffusion.ddpm``, k-diffusion): 16 bits are too few for them."""

_SCALES = frozenset(
    """scale_weight scale_weight_tensor weight_scale weight_scale_2 weight_scale_inv weight_scalar scale_input
    input_scale absmax nested_absmax quant_map nested_quant_map wtscale SCB""".split()
)
"""Factors of the codes of quantised weights (ComfyUI, musubi-tuner, DeepSeek, bitsandbytes, nunchaku): each is of many
weights, usually below the normal range of F16, and of the type that its readers expect."""

_COUNTERS = frozenset({"model_ema.decay", "model_ema.num_updates"})


def cast(draft: Draft, rules: Sequence[DTypeRule], whole: str | None = None) -> Draft:
    """*draft* with the element types that *rules* ask for; *whole* is the component that the file is, if it is one.

    Only real floating point tensors of 16 bits or more are cast; the noise schedule's buffers, the scales of quantised
    weights and the counters of averaged ones never are. Raises :class:`~modelhub.errors.MissingExtra` when something is
    to be cast and numpy is not installed.
    """
    unused = [rule.pattern for rule in rules if not any(_fits(rule, name, whole) for name in draft.tensors)]
    draft = draft.changed(draft.tensors, *(f"--dtype: no tensor is, or is in, {pattern!r:.100}" for pattern in unused))
    tensors: dict[str, Assembly] = {}
    casts: Counter[tuple[DType, DType]] = Counter()
    for name, made in draft.tensors.items():
        wanted = _wanted(name, rules, whole)
        kept = wanted is None or not made.dtype.is_float or is_left_alone(name)
        tensors[name] = made if wanted is None or kept else replace(made, dtype=wanted)
        if tensors[name].dtype is not made.dtype:
            casts[made.dtype, tensors[name].dtype] += 1
    if not casts:
        return draft.changed(tensors, "no tensor was of another element type than asked for")
    check_casts_are_possible()
    told = (f"{count} from {before.label} to {after.label}" for (before, after), count in casts.items())
    return draft.changed(tensors, f"tensors cast: {', '.join(told)}; {len(tensors) - casts.total()} keep their type")


def is_left_alone(name: str) -> bool:
    """Whether the tensor *name* is no weight: a schedule's buffer, a quantised weight's scale, or a counter."""
    return name in _COUNTERS or name.rpartition(".")[2] in _SCHEDULE | _SCALES


def _wanted(name: str, rules: Sequence[DTypeRule], whole: str | None) -> DType | None:
    """The element type that the last rule that fits *name* asks for."""
    return next((rule.dtype for rule in reversed(rules) if _fits(rule, name, whole)), None)


def _fits(rule: DTypeRule, name: str, whole: str | None) -> bool:
    component = component_named(rule.pattern)
    if component is None:
        return fnmatchcase(name, rule.pattern)
    return is_part(component_of(name, whole), component)
