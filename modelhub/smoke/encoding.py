"""Prompts as the networks that draw take them: each family of models has its own way from words to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from modelhub.smoke.loading import CannotLoad, Place
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.tokens import T5, tokenizer_for

T5_LENGTHS = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}
"""Tokens of every prompt that T5 encodes: the defaults of diffusers' pipelines (FLUX.1 schnell was trained at 256)."""

Vectors = Mapping[str, torch.Tensor]
"""An embedding's vectors, ``(n, width)`` by text encoder: they stand before the words, as if a token's name did."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the UNet or transformer takes it: the text's encoding, and the pooled one of all but SD 1 and 2."""

    tokens: torch.Tensor
    pooled: torch.Tensor | None = None

    def zeros(self) -> Encoded:
        return Encoded(torch.zeros_like(self.tokens), None if self.pooled is None else torch.zeros_like(self.pooled))


class Encoding(Protocol):
    """How a family encodes prompts."""

    def encode(self, text: str, vectors: Vectors | None = None) -> Encoded:
        """*text* as the pipelines of diffusers encode it."""

    def empty(self, prompt: Encoded) -> Encoded:
        """What *prompt* is held against: the encoding of the spec's negative prompt."""


def encoding_of(spec: SmokeSpec, modules: Mapping[str, Any], place: Place) -> Encoding:
    """The way of *spec*'s family, with the text encoders among *modules*."""
    if spec.pipeline == "StableDiffusion3Pipeline":
        return JointEncoding(spec, modules, place)
    return FluxEncoding(spec, modules, place) if spec.pipeline == "FluxPipeline" else ClipEncoding(spec, modules, place)


class _Clips:
    """CLIP's encoders among *modules* that are called *names*, with their tokenizers."""

    def __init__(self, spec: SmokeSpec, modules: Mapping[str, Any], place: Place, names: tuple[str, ...]) -> None:
        self._encoders = {name: modules[name] for name in names if name in modules}
        self._tokenizers = [tokenizer_for(encoder.config, spec.tokenizer) for encoder in self._encoders.values()]
        self._place = place

    def outputs(self, text: str, vectors: Vectors | None) -> list[Any]:
        """What each encoder makes of *text*, hidden states included."""
        made = []
        for (name, encoder), tokenizer in zip(self._encoders.items(), self._tokenizers, strict=True):
            own = (vectors or {}).get(name)
            ids = tokenizer(text) if own is None else _with_room(tokenizer(text), len(own))
            with _standing_in(encoder, own):
                made.append(encoder(torch.tensor([ids], device=self._place.device), output_hidden_states=True))
        return made


class ClipEncoding:
    """SD 1 and 2 by one text encoder; SDXL by the last but one layer of two, the refiner by that of the second."""

    def __init__(self, spec: SmokeSpec, modules: Mapping[str, Any], place: Place) -> None:
        self._clips = _Clips(spec, modules, place, ("text_encoder", "text_encoder_2"))
        self._count = sum(name in modules for name in ("text_encoder", "text_encoder_2"))
        self._pooled = "text_encoder_2" in modules
        self._negative = spec.negative

    def encode(self, text: str, vectors: Vectors | None = None) -> Encoded:
        outputs = self._clips.outputs(text, vectors)
        if not self._pooled:
            return Encoded(outputs[0].last_hidden_state)
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return Encoded(tokens, outputs[-1][0])

    def empty(self, prompt: Encoded) -> Encoded:
        """Without words, it is zero with both encoders of SDXL."""
        return prompt.zeros() if not self._negative and self._count > 1 else self.encode(self._negative)


class JointEncoding:
    """SD 3: two encoders of CLIP side by side, made as wide as T5's encoding and followed by it, which is zero where
    there is no T5."""

    def __init__(self, spec: SmokeSpec, modules: Mapping[str, Any], place: Place) -> None:
        self._clips = _Clips(spec, modules, place, ("text_encoder", "text_encoder_2"))
        self._length = T5_LENGTHS[spec.pipeline]
        self._t5 = _t5(spec, modules, "text_encoder_3", self._length, place)
        self._width = modules["transformer"].config.joint_attention_dim
        self._negative = spec.negative

    def encode(self, text: str, vectors: Vectors | None = None) -> Encoded:
        outputs = self._clips.outputs(text, vectors)
        clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        clip = torch.nn.functional.pad(clip, (0, self._width - clip.shape[-1]))
        rest = clip.new_zeros(1, self._length, self._width) if self._t5 is None else self._t5(text)
        return Encoded(torch.cat([clip, rest], dim=1), torch.cat([output[0] for output in outputs], dim=-1))

    def empty(self, _prompt: Encoded) -> Encoded:
        return self.encode(self._negative)


class FluxEncoding:
    """FLUX.1: T5's encoding, and CLIP's pooled one."""

    def __init__(self, spec: SmokeSpec, modules: Mapping[str, Any], place: Place) -> None:
        self._clips = _Clips(spec, modules, place, ("text_encoder",))
        self._t5 = _t5(spec, modules, "text_encoder_2", T5_LENGTHS[spec.pipeline], place)
        self._negative = spec.negative

    def encode(self, text: str, vectors: Vectors | None = None) -> Encoded:
        assert self._t5 is not None
        return Encoded(self._t5(text), self._clips.outputs(text, vectors)[0].pooler_output)

    def empty(self, _prompt: Encoded) -> Encoded:
        return self.encode(self._negative)


class _T5:
    """A T5 encoder and its tokenizer."""

    def __init__(self, encoder: Any, tokenizer: T5, place: Place) -> None:
        self._encoder, self._tokenizer, self._place = encoder, tokenizer, place

    def __call__(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text)
        if max(ids) >= self._encoder.config.vocab_size:
            raise CannotLoad("the tokenizer has words that T5 does not know: it is another one's")
        made: torch.Tensor = self._encoder(torch.tensor([ids], device=self._place.device))[0]
        return made


def _t5(spec: SmokeSpec, modules: Mapping[str, Any], name: str, length: int, place: Place) -> _T5 | None:
    if spec.t5 is None or name not in modules:
        return None
    try:
        tokenizer = T5(spec.t5, length)
    except Exception as error:  # the tokenizers library has no class of its own for what it cannot read
        raise CannotLoad(f"{spec.t5}: it is no tokenizer: {' '.join(str(error).split()):.200}") from error
    return _T5(modules[name], tokenizer, place)


def _with_room(ids: list[int], count: int) -> list[int]:
    """*ids* with *count* places between the start and the words, the last of which may be lost; the end, the highest
    id, stays."""
    end = ids.index(max(ids))
    words = ids[1:end]
    count = min(count, len(ids) - 2)
    kept = [ids[0], *ids[:1] * count, *words[: len(ids) - 2 - count], ids[end]]
    return kept + ids[-1:] * (len(ids) - len(kept))


@contextmanager
def _standing_in(encoder: Any, vectors: torch.Tensor | None) -> Iterator[None]:
    """Within it, *vectors* stand for the tokens behind the start."""
    if vectors is None:
        yield
        return

    def put(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        room = output[:, 1:-1]
        return torch.cat(
            [output[:, :1], vectors[None, : room.shape[1]].to(output), room[:, len(vectors) :], output[:, -1:]], 1
        )

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
