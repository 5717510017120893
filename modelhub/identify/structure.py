"""Models by their structure: whole checkpoints, their components, and what steers or enlarges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelhub.identify.base import Evidence, Identity
from modelhub.identify.names import Names
from modelhub.identify.prediction import prediction_type
from modelhub.identify.probe import Probe
from modelhub.identify.registry import FAMILIES, Family, Seen, Signature, family, in_order
from modelhub.identify.scale import scale_of
from modelhub.identify.side_file import Told
from modelhub.tensors import StateDict


@dataclass(frozen=True, slots=True)
class Part:
    """A component that was found: by which signature, below which root."""

    name: str
    family: Family
    signature: Signature
    root: str
    seen: Seen

    @property
    def kind(self) -> str | None:
        return self.signature.kind or self.family.kind

    def is_doubted(self, names: Names) -> bool:
        """Whether it is like a component of another model, with more in the file than a component needs."""
        doubted_by = () if self.signature.confidence == "high" else self.family.doubted_by
        return any(names.find(self.root, each) for each in doubted_by)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures that it may belong to, as far as it can tell by itself."""
        own = self.signature.architecture
        return (own,) if own else self.signature.candidates


def identify_structure(
    names: Names, state_dict: StateDict, probe: Probe, beside: Told | None = None
) -> Identity | None:
    """What the signatures say of *names*, or ``None`` when none of them fits.

    *state_dict* gives the metadata and scalars, *probe* the few bytes that tell SD 2's
    prediction type, *beside* what a configuration beside the file says of it.
    """
    parts = _named(tuple(_parts(names)))
    lead = next((part for part in parts if part.kind), None)
    if lead is None:
        return None
    kind, why = _kind(lead, parts)
    evidence = [Evidence("kind", kind, "structure", why)]
    evidence += [
        part.seen.evidence("components", part.name, "" if part.architectures else part.signature.because)
        for part in parts
    ]

    possible = _possible(lead, parts)
    architecture = possible[0] if len(possible) == 1 and not lead.is_doubted(names) else None
    for part in parts:
        if part.architectures and (part is lead or not lead.architectures):
            value = " | ".join(part.architectures)
            signature = part.signature
            evidence.append(part.seen.evidence("architecture", value, signature.because, signature.confidence))

    scale = scale_of(names, lead.root) if kind == "upscaler" else None
    if scale:
        evidence.append(scale)
    variant, seen = _variant(lead, architecture, names)
    if variant.variant:
        evidence.append(seen.evidence("variant", variant.variant, variant.because, variant.confidence))

    predicted: Evidence | None = None
    if kind in {"checkpoint", "diffusion-model"}:
        implied = variant.prediction_type
        told = seen.evidence("prediction_type", implied, variant.because, "medium") if implied else None
        predicted = prediction_type(
            names, state_dict, architecture=architecture, told=told, root=lead.root, probe=probe, beside=beside
        )
    if predicted:
        evidence.append(predicted)
    return Identity(
        kind=kind,
        architecture=architecture,
        variant=scale.value if scale else variant.variant,
        prediction_type=predicted.value if predicted and " | " not in predicted.value else None,
        components=tuple(part.name for part in parts),
        evidence=tuple(evidence),
        candidates=in_order(possible) if architecture is None else (),
    )


def _parts(names: Names) -> Iterator[Part]:
    found: set[str] = set()
    for name, unless in FAMILIES.items():
        if found & unless:
            continue
        known = family(name)
        for root in names.roots(known.roots):
            for signature in known.signatures if known.may_fit(names, root) else ():
                if seen := signature.match(names, root):
                    yield Part(signature.component or known.component, known, signature, root, seen)
                    found.add(name)
                    break


def _named(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts, a second and third of the same name numbered as diffusers does (``text_encoder_2``)."""
    count: dict[str, int] = {}
    named = []
    for part in parts:
        number = count[part.name] = count.get(part.name, 0) + 1
        name = part.name if number == 1 else f"{part.name}_{number}"
        named.append(Part(name, part.family, part.signature, part.root, part.seen))
    return tuple(named)


def _kind(lead: Part, parts: tuple[Part, ...]) -> tuple[str, str]:
    kind = lead.kind or ""
    contents = ", ".join(part.name for part in parts)
    beside = {part.kind for part in parts} & {"vae", "text-encoder"}
    if kind == "diffusion-model" and beside:
        return "checkpoint", f"a diffusion model together with what it needs: {contents}"
    if kind in {"vae", "text-encoder"} and len(beside) > 1:
        return "checkpoint", f"parts of a checkpoint without its diffusion model: {contents}"
    return kind, f"it holds: {contents}"


def _variant(lead: Part, architecture: str | None, names: Names) -> tuple[Signature, Seen]:
    """What says which variant of *architecture* it is: the lead's own signature where that does, else a variant's."""
    if lead.signature.variant is None:
        for each in lead.family.variants:
            if (not each.of or architecture in each.of) and (seen := each.match(names, lead.root)):
                return each, seen
    return lead.signature, lead.seen


def _possible(lead: Part, parts: tuple[Part, ...]) -> tuple[str, ...]:
    """The architectures that the lead leaves open and no other part rules out."""
    possible = lead.architectures
    if len(possible) == 1:
        return possible
    for part in parts:
        if not possible:
            possible = part.architectures
        elif narrower := tuple(name for name in possible if name in part.architectures):
            possible = narrower
    return possible
