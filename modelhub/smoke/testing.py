"""The course of one test inside the worker: what is run, in which order, and what is told of it.

Nothing is judged here. The first measurement that cannot be had (weights without values, pictures that are not
numbers) ends what depends on it.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import diffusers
import numpy as np
import torch
import transformers

from modelhub.smoke import images
from modelhub.smoke.loading import Place, account_dict, load, on_meta
from modelhub.smoke.run import IMAGE
from modelhub.smoke.sampling import Encoded, Sampler, decode_latents, encode_picture, statistics
from modelhub.smoke.spec import SmokeSpec
from modelhub.smoke.telling import Teller

_COMPARED_STEPS = 2
"""Steps after which a repetition, another prompt and no guidance are compared with the image's own latents."""


@torch.inference_mode()
def run_test(spec: SmokeSpec, place: Place, folder: str, teller: Teller) -> None:
    """Carry out *spec* at *place*; measurements go to *teller*, the image into *folder*.

    Raises :class:`~modelhub.smoke.loading.CannotLoad`.
    """
    teller.tell(device=_device_name(place), dtype=str(place.dtype).removeprefix("torch."), versions=_versions())
    try:
        _run(spec, folder, teller, place)
    finally:
        teller.tell(**_peak_memory(place))


def _run(spec: SmokeSpec, folder: str, teller: Teller, place: Place) -> None:
    teller.stage("loading")
    modules, accounts = load(spec, place)
    account = account_dict(accounts)
    teller.tell(load=account)
    whole = not any(account[kind]["count"] for kind in ("missing", "non_finite"))
    if not whole or any(name for module in modules.values() for name in on_meta(module)):
        return
    teller.stage("encoding and decoding drawn pictures")
    latents = _round_trip(spec, modules["vae"], folder, teller, place)
    if not spec.pipeline or latents is None:
        return
    teller.stage("encoding prompts")
    sampler = Sampler(spec, modules, place)
    prompt, other = (sampler.encode(text) for text in spec.prompts)
    empty = prompt.zeros() if prompt.pooled is not None else sampler.encode("")
    teller.tell(text=_text_statistics(prompt, other))
    if not torch.isfinite(prompt.tokens).all():
        return
    teller.stage("probing the UNet")
    teller.tell(probe=sampler.probe(latents, empty))
    teller.stage("sampling")
    sampled = sampler.sample(prompt, empty, guidance=spec.guidance)
    plane = sampled.latents.float().cpu().numpy()[0, 0]
    teller.tell(latents=sampled.steps, latent_autocorrelation=images.autocorrelation(plane, 1))
    if sampled.steps[-1]["non_finite"]:
        return
    teller.stage("decoding the image")
    _image(spec, modules["vae"], sampled.latents, folder, teller)
    teller.stage("sampling again")
    _compare(spec, sampler, (prompt, other, empty), sampled.after, teller)


def _round_trip(spec: SmokeSpec, vae: Any, folder: str, teller: Teller, place: Place) -> torch.Tensor | None:
    """The latents of the drawn pictures (``None``: not finite), after telling how well they come back."""
    pictures = images.drawn(min(spec.size, 256))
    batch = torch.stack([torch.from_numpy(each).permute(2, 0, 1) * 2 - 1 for each in pictures])
    latents = encode_picture(vae, batch.to(place.device, place.dtype))
    decoded = decode_latents(vae, latents) / 2 + 0.5
    told: dict[str, Any] = {"latents": statistics(latents), "non_finite": statistics(decoded)["non_finite"]}
    if not told["non_finite"]:
        arrays = [np.clip(each, 0, 1) for each in decoded.permute(0, 2, 3, 1).cpu().numpy()]
        told["psnr"] = float(np.mean([images.psnr(*pair) for pair in zip(arrays, pictures, strict=True)]))
        if not spec.pipeline:
            sheet = np.concatenate([np.concatenate(pair, axis=1) for pair in zip(pictures, arrays, strict=True)])
            _write(os.path.join(folder, IMAGE), images.png(sheet))
    teller.tell(vae=told)
    return None if told["latents"]["non_finite"] else latents


def _image(spec: SmokeSpec, vae: Any, latents: torch.Tensor, folder: str, teller: Teller) -> None:
    decoded = decode_latents(vae, latents) / 2 + 0.5
    non_finite = statistics(decoded)["non_finite"]
    if non_finite and vae.dtype == torch.float16:
        vae.to(torch.float32)
        decoded = decode_latents(vae, latents) / 2 + 0.5
        teller.tell(vae_overflows=True)
        non_finite = statistics(decoded)["non_finite"]
    told: dict[str, Any] = {"non_finite": non_finite}
    if not non_finite:
        picture = decoded[0].permute(1, 2, 0).cpu().numpy()
        data = images.png(picture, {"parameters": _parameters(spec)})
        _write(os.path.join(folder, IMAGE), data)
        told |= images.measure(np.clip(picture, 0, 1), len(data))
    teller.tell(image=told)


def _compare(
    spec: SmokeSpec,
    sampler: Sampler,
    encoded: tuple[Encoded, Encoded, Encoded],
    after: dict[int, torch.Tensor],
    teller: Teller,
) -> None:
    """Tell by how much latents differ from the image's when nothing, the prompt and the guidance are changed."""
    steps = min(_COMPARED_STEPS, max(after))
    prompt, other, empty = encoded
    runs = {
        "repetition": (prompt, spec.guidance),
        "other_prompt": (other, spec.guidance),
        "no_guidance": (prompt, 1.0),
    }
    differences = {}
    for name, (conditioning, guidance) in runs.items():
        again = sampler.sample(conditioning, empty, guidance=guidance, stop_after=steps)
        differences[name] = float((again.after[steps].float() - after[steps].float()).abs().max())
    teller.tell(differences=differences)


def _text_statistics(prompt: Encoded, other: Encoded) -> dict[str, float]:
    return {
        **statistics(prompt.tokens),
        "difference": float((prompt.tokens.float() - other.tokens.float()).abs().max()),
    }


def _parameters(spec: SmokeSpec) -> str:
    """How the image was made, as image viewers of the field show it."""
    model = os.path.basename(spec.path.rstrip(os.sep))
    told = {
        "Steps": spec.steps,
        "CFG scale": spec.guidance,
        "Seed": spec.seed,
        "Size": f"{spec.size}x{spec.size}",
        "Model": model,
        "Tokenizer": "CLIP" if spec.tokenizer else "stand-in",
    }
    return f"{spec.prompts[0]}\n{', '.join(f'{key}: {value}' for key, value in told.items())}"


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _device_name(place: Place) -> str:
    if place.device.type == "cuda":
        return f"{place.device.type} ({torch.cuda.get_device_name(place.device)})"
    return f"{place.device.type} ({torch.get_num_threads()} threads)"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


def _peak_memory(place: Place) -> dict[str, int]:
    """The most bytes that this process held in the machine's memory and in the device's."""
    told = {}
    try:
        import resource
    except ImportError:
        pass
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        told["host_memory"] = most if sys.platform == "darwin" else most * 1024
    if place.device.type == "cuda":
        told["device_memory"] = torch.cuda.max_memory_allocated(place.device)
    return told
