"""What every course of a test needs: the spec, the modules and where measurements and pictures go."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modelhub.smoke import images
from modelhub.smoke.kept import Kept
from modelhub.smoke.loading import CannotLoad, Files, Place
from modelhub.smoke.reaching import reached
from modelhub.smoke.run import GRID, IMAGE
from modelhub.smoke.sampling import Sampler, decode_latents, encode_picture, statistics
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.telling import Teller


@dataclass(frozen=True, slots=True)
class Course:
    """A test that goes on: *files* and *modules* are open, measurements go to *teller*, the image into *folder*."""

    spec: SmokeSpec
    place: Place
    files: Files
    modules: Mapping[str, Any]
    folder: str
    teller: Teller
    kept: Kept
    reach: list[float] = field(default_factory=list)
    """The largest values within the VAE, one for each time that it ran in a type that is wider than fp16."""

    def sampler(self) -> Sampler:
        return Sampler(self.spec, self.modules, self.place)

    def drawn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The drawn pictures that a pipeline may start from, ``(1, 3, size, size)`` from 0 to 1."""
        first, second = (torch.from_numpy(each).permute(2, 0, 1)[None] for each in images.drawn(self.spec.size))
        return first, second

    def picture(self, latents: torch.Tensor, *, kept: bool = True) -> dict[str, Any]:
        """What the picture of *latents* looks like in numbers; it is the test's image if *kept*."""
        decoded = self.decoded(latents)
        non_finite = statistics(decoded)["non_finite"]
        told: dict[str, Any] = {"non_finite": non_finite}
        if not non_finite:
            picture = decoded[0].permute(1, 2, 0).cpu().numpy()
            data = self.png(picture)
            if kept:
                self.keep(data)
                self.compare_with_reference(picture)
                self._score(picture)
            told |= images.measure(np.clip(picture, 0, 1), len(data))
        return told

    def _score(self, picture: images.Picture) -> None:
        """Tell how well *picture* shows its prompt, and how well another one, where something says that."""
        if self.spec.clip is not None:
            self.teller.stage("comparing the image with its prompt")
            try:
                scorer = self.kept.scorer(self.spec, self.place)
                scores = None if scorer is None else scorer.scores(np.clip(picture, 0, 1), self.spec.prompts[:2])
            except (CannotLoad, RuntimeError, ValueError, IndexError) as error:  # not the tested model's fault
                self.teller.tell(clip=f"not measured: {' '.join(str(error).split()):.300}")
                return
            if scores is not None:
                own, other = scores
                self.teller.tell(clip={"prompt": own, "other": other, "model": os.path.basename(self.spec.clip.path)})

    def encoded(self, pictures: torch.Tensor) -> torch.Tensor:
        """The scaled latents of *pictures*, ``(n, 3, height, width)`` from 0 to 1, in the place's element type."""
        return self._through_vae(lambda vae: encode_picture(vae, pictures * 2 - 1)).to(self.place.dtype)

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """The pictures of *latents*, ``(n, 3, height, width)``, around 0 to 1, in fp32."""
        return self._through_vae(lambda vae: decode_latents(vae, latents)) / 2 + 0.5

    def _through_vae(self, way: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """What *way* makes with the VAE; one that overflows in fp16 does it again in fp32, which is told, as is how far
        the values of one that runs in another type reach."""
        vae = self.modules["vae"]
        if vae.dtype != torch.float16:
            with reached(vae) as largest:
                made = way(vae)
            self.reach.append(float(torch.stack(largest).max()))
            if all(map(math.isfinite, self.reach)):  # else that is worse, and told by what comes of it
                self.teller.tell(vae_reach=max(self.reach))
            return made
        made = way(vae)
        if not statistics(made)["non_finite"]:
            return made
        vae.to(torch.float32)
        try:
            again = way(vae)
        finally:
            vae.to(torch.float16)
        if not statistics(again)["non_finite"]:
            self.teller.tell(vae_overflows=True)
        return again

    def compare_with_reference(self, picture: images.Picture) -> None:
        """Tell how alike *picture* and the spec's reference are, if it has one."""
        if self.spec.reference is not None:
            try:
                reference = images.read_png(self.spec.reference)
            except OSError as error:
                self.teller.tell(reference_lost=str(error))
            else:
                self.teller.tell(reference=images.similarity(np.clip(picture, 0, 1), reference))

    def png(self, picture: images.Picture, *, sheet: bool = False) -> bytes:
        """*picture*, or the *sheet* of every prompt and seed, as a PNG file that says how it was made."""
        return images.png(picture, {"parameters": _parameters(self.spec, sheet=sheet)})

    def keep(self, data: bytes) -> None:
        """Let the PNG file *data* be the test's image."""
        with open(os.path.join(self.folder, IMAGE), "wb") as file:
            file.write(data)

    def keep_grid(self, data: bytes) -> None:
        """Let the PNG file *data* be the sheet of the images of every prompt and seed."""
        with open(os.path.join(self.folder, GRID), "wb") as file:
            file.write(data)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors' elements."""
    return float((one.float() - other.float()).abs().max())


def _parameters(spec: SmokeSpec, *, sheet: bool) -> str:
    """How the image was made, as image viewers of the field show it; pictures that are given back have no prompt."""
    made: dict[str, object] = {"Size": f"{spec.size}x{spec.size}", "Model": os.path.basename(spec.path.rstrip(os.sep))}
    prompts: tuple[str, ...] = ()
    if spec.pipeline:
        prompts = spec.prompts if sheet else spec.prompts[:1]
        seeds = spec.seeds if sheet else (spec.seed,)
        told = {"Steps": spec.steps, "CFG scale": spec.guidance, "Seed": " ".join(map(str, seeds))}
        made = told | made | {"Tokenizer": "CLIP" if spec.tokenizer else "stand-in"}
    return "\n".join([*prompts, ", ".join(f"{key}: {value}" for key, value in made.items())])
