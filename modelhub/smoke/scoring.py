"""How well an image shows a prompt: the cosine of CLIP's encodings of both (Hessel et al. 2021, CLIPScore)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from modelhub.smoke.images import Picture
from modelhub.smoke.loading import CannotLoad, Files, Place, fill
from modelhub.smoke.spec import ClipSpec
from modelhub.smoke.tokens import tokenizer_for

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue, as OpenAI's CLIP was trained with."""


class Scorer:
    """The model of *clip*, loaded at *place*; words become its tokens by the vocabulary *tokenizer* of a spec.

    Raises :class:`CannotLoad` for one that is not whole.
    """

    def __init__(self, clip: ClipSpec, tokenizer: str, place: Place) -> None:
        config: Any = CLIPConfig(**clip.config)
        with torch.device("meta"):
            self._model: Any = CLIPModel(config)
        account = fill(self._model, clip.tensors, Files(clip.files, place.device), place)
        if account.missing or account.non_finite:
            raise CannotLoad(f"{clip.path}: it has no usable {(account.missing or account.non_finite)[0]!r:.100}")
        self._model.eval().requires_grad_(False)
        self._tokenizer = tokenizer_for(config.text_config, tokenizer)
        self._side = config.vision_config.image_size
        self._place = place

    def scores(self, picture: Picture, texts: Sequence[str]) -> list[float]:
        """The cosine, from -1 to 1, of *picture*, ``(height, width, 3)`` from 0 to 1, and each of *texts*."""
        pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        pixels = torch.nn.functional.interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True)
        pixels = (pixels.clamp(0, 1) - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]
        made = self._model(
            input_ids=torch.tensor([self._tokenizer(text) for text in texts], device=self._place.device),
            pixel_values=pixels.to(self._place.device, self._place.dtype),
        )
        image, words = (each.float() for each in (made.image_embeds, made.text_embeds))
        found: list[float] = torch.nn.functional.cosine_similarity(image, words).tolist()
        return found
