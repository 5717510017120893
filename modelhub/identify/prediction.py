"""What a diffusion model predicts: the noise (``epsilon``), ``v_prediction``, ``flow``, or with ``edm`` scaling.

Structure alone cannot tell, so the question goes down a ladder and the first rung that answers decides: marker keys;
a configuration beside the file; the header's metadata; what the variant implies; for SD 2 a probe of one bias; for SD 2
the official training step; the convention of the architecture, where all of its models keep to one. (A diffusers
folder's scheduler configuration stands in the place of the one beside a file, and a user's word above all of them;
neither is known here.)
"""

from __future__ import annotations

from collections.abc import Mapping

from modelhub.identify.base import Evidence
from modelhub.identify.names import Names
from modelhub.identify.probe import Probe
from modelhub.identify.registry import architectures
from modelhub.identify.side_file import Told
from modelhub.tensors import Scalar, StateDict

_FACT = "prediction_type"

_MARKERS = (
    ("v_pred", "v_prediction", "the marker of v-prediction training"),
    ("edm_vpred.sigma_max", "v_prediction", "the EDM range of a v-prediction model"),
    ("edm_mean", "edm", "the statistics of an EDM model"),
)
_CLAIMS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vprediction": "v_prediction",
    "edm": "edm",
    "flow": "flow",
    "flow_matching": "flow",
}
"""Values of ``modelspec.prediction_type``: the specification's ``epsilon`` and ``v``, and what programs write."""

_PROBES = (
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
_V_DEVIATION = 0.09
"""Above this standard deviation of the probed bias an SD 2 model predicts v (ComfyUI, ``supported_models.SD20``)."""

_OFFICIAL_STEPS: Mapping[Scalar, str] = {220000: "epsilon", 110000: "v_prediction"}
"""``global_step`` in Stability's SD 2 base and SD 2 768-v checkpoints (InvokeAI, model probe)."""


def prediction_type(
    names: Names,
    state_dict: StateDict,
    *,
    architecture: str | None,
    told: Evidence | None,
    root: str,
    probe: Probe,
    beside: Told | None,
) -> Evidence | None:
    """The first rung's answer, or ``None``.

    *told* is what the variant implies, *root* where the model's own names begin, *beside* what a configuration beside
    the file says. An answer of several types (``"epsilon | v_prediction"``) says that nothing decides between them.
    """
    return (
        _by_marker(names)
        or (Evidence(_FACT, beside.value, "side file", beside.detail, beside.confidence) if beside else None)
        or claimed(state_dict.metadata, (architecture,) if architecture else ())
        or told
        or (_by_probe(names, root, probe) if architecture == "sd-2" else None)
        or (_by_step(state_dict.scalars) if architecture == "sd-2" else None)
        or _by_convention(architecture)
    )


def claimed(metadata: Mapping[str, str], possible: tuple[str, ...]) -> Evidence | None:
    """What the header's metadata say: ``modelspec.prediction_type``, ``ss_v_parameterization``.

    Nothing when one of the *possible* architectures is a flow model: trainers write the defaults of Stable Diffusion
    into the files of those as well.
    """
    if any((known := architectures().get(name)) and known.prediction_type == "flow" for name in possible):
        return None
    stated = metadata.get("modelspec.prediction_type", "")
    if value := _CLAIMS.get(stated.strip().lower().replace("-", "_")):
        return Evidence(_FACT, value, "metadata", f"modelspec.prediction_type is {stated!r}", "medium")
    trained = metadata.get("ss_v_parameterization", "").strip().lower()
    if trained in {"true", "false", "1", "0"}:
        value = "v_prediction" if trained in {"true", "1"} else "epsilon"
        return Evidence(_FACT, value, "metadata", f"ss_v_parameterization is {trained}", "medium")
    return None


def _by_marker(names: Names) -> Evidence | None:
    for key, value, because in _MARKERS:
        if key in names.tensors:
            return Evidence(_FACT, value, "key", f"there is {key}: {because}")
    return None


def _by_probe(names: Names, root: str, probe: Probe) -> Evidence | None:
    for key in _PROBES:
        tensor = names.tensors.get(root + key)
        spread = probe.deviation(tensor) if tensor else None
        if spread is not None:
            value, relation = ("v_prediction", "above") if spread > _V_DEVIATION else ("epsilon", "not above")
            detail = f"the standard deviation of {root + key} is {spread:.3g}, {relation} {_V_DEVIATION}"
            return Evidence(_FACT, value, "byte", detail, "medium")
    return None


def _by_step(scalars: Mapping[str, Scalar]) -> Evidence | None:
    step = scalars.get("global_step")
    if value := _OFFICIAL_STEPS.get(step):
        return Evidence(_FACT, value, "structure", f"global_step is {step}, as in the official file", "medium")
    return None


def _by_convention(architecture: str | None) -> Evidence | None:
    known = architectures().get(architecture or "")
    if known is None:
        return None
    if known.undecided:
        return Evidence(_FACT, " | ".join(known.undecided), "structure", known.because, "low")
    if known.prediction_type is None:
        return None
    return Evidence(_FACT, known.prediction_type, "structure", known.because, known.confidence)
