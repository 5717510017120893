"""Side files as the programs of each dialect write them, of one LoRA."""

from __future__ import annotations

import json
from typing import Any

from modelhub.sidefiles import ModelFile

NAME = "harbour.v1.2"
SHA256 = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
FILE = ModelFile(f"{NAME}.safetensors", 151_108_832)

CIVITAI: dict[str, Any] = {
    "id": 128713,
    "modelId": 4384,
    "name": "v1.2",
    "createdAt": "2025-07-29T20:48:10.000Z",
    "updatedAt": "2025-12-18T09:16:12.062Z",
    "trainedWords": ["harbour at dusk", "water, colour"],
    "baseModel": "SDXL 1.0",
    "baseModelType": "Standard",
    "description": "<p>Better boats.</p>",
    "nsfwLevel": 1,
    "stats": {"downloadCount": 3, "ratingCount": 0, "rating": 0},
    "model": {
        "name": "Harbour Style",
        "type": "LORA",
        "nsfw": False,
        "poi": False,
        "tags": ["style", "boats"],
        "description": "<h1>Harbours</h1><p>Boats &amp; <b>water</b>.</p>",
        "allowNoCredit": True,
        "allowCommercialUse": ["Image", "Rent"],
        "allowDerivatives": False,
        "creator": {"username": "someone"},
    },
    "files": [
        {"id": 1, "name": "training.zip", "sizeKB": 1000.0, "type": "Training Data", "hashes": {"SHA256": "00" * 32}},
        {
            "id": 2,
            "name": f"{NAME}.safetensors",
            "sizeKB": 151_108_832 / 1024,
            "type": "Model",
            "metadata": {"fp": "fp16", "size": None, "format": "SafeTensor"},
            "pickleScanResult": "Success",
            "primary": True,
            "hashes": {
                "AutoV1": "7D3A4C1B",
                "AutoV2": SHA256[:10].upper(),
                "AutoV3": "ABCDEF012345",
                "SHA256": SHA256.upper(),
                "CRC32": "1A2B3C4D",
                "BLAKE3": "BB" * 32,
            },
        },
    ],
    "images": [{"url": "https://image.civitai.com/x/1.jpeg", "nsfwLevel": 1, "width": 832, "height": 1216}],
    "downloadUrl": "https://civitai.com/api/download/models/128713",
}
A1111: dict[str, Any] = {
    "description": "Boats & water.",
    "sd version": "SDXL",
    "activation text": "harbour at dusk, watercolour",
    "preferred weight": 0.8,
    "negative text": "cars",
    "notes": "works best at night",
}
LORA_MANAGER: dict[str, Any] = {
    "file_name": NAME,
    "model_name": "Harbour Style",
    "file_path": f"C:/ComfyUI/models/loras/{NAME}.safetensors",
    "size": 151_108_832,
    "modified": 1753822090.0,
    "sha256": SHA256,
    "base_model": "SDXL 1.0",
    "preview_url": f"C:/ComfyUI/models/loras/{NAME}.webp",
    "preview_nsfw_level": 1,
    "notes": "works best at night",
    "from_civitai": True,
    "civitai": CIVITAI,
    "tags": ["style", "night"],
    "modelDescription": "<p>Boats.</p>",
    "civitai_deleted": False,
    "favorite": True,
    "exclude": False,
    "usage_tips": '{"strength": 0.7}',
}
STABILITY_MATRIX: dict[str, Any] = {
    "ModelId": 4384,
    "ModelName": "Harbour Style",
    "ModelDescription": "<p>Boats.</p>",
    "Nsfw": False,
    "Tags": ["style"],
    "ModelType": "LORA",
    "VersionId": 128713,
    "VersionName": "v1.2",
    "VersionDescription": None,
    "AuthorUsername": "someone",
    "BaseModel": "SDXL 1.0",
    "FileMetadata": {"fp": "fp16", "size": None, "format": "SafeTensor"},
    "ImportedAt": "2025-09-01T10:00:00.0000000+00:00",
    "Hashes": {"SHA256": SHA256.upper(), "CRC32": "1A2B3C4D", "BLAKE3": "BB" * 32},
    "TrainedWords": ["harbour at dusk"],
    "Stats": None,
    "UserTitle": "My harbour",
    "Source": "Civitai",
}
SWARMUI: dict[str, Any] = {
    "modelspec.title": "Harbour Style",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.author": "someone",
    "modelspec.description": "Boats.",
    "modelspec.preview_image": "data:image/jpeg;base64,/9j/4AAQ",
    "modelspec.trigger_phrase": "harbour at dusk",
    "modelspec.license": "CC-BY-4.0",
    "modelspec.usage_hint": "works best at night",
    "modelspec.tags": ["style", "boats"],
    "modelspec.date": "2025-09-01",
    "modelspec.prediction_type": "epsilon",
    "modelspec.hash_sha256": "0x" + "cd" * 32,
    "modelspec.is_negative_embedding": False,
}
RGTHREE: dict[str, Any] = {
    "file": f"{NAME}.safetensors",
    "path": f"/ComfyUI/models/loras/{NAME}.safetensors",
    "images": [],
    "name": "Harbour Style - v1.2",
    "type": "LORA",
    "baseModel": "SDXL 1.0",
    "baseModelFile": "sd_xl_base_1.0.safetensors",
    "links": ["https://civitai.com/models/4384?modelVersionId=128713"],
    "strengthMin": 0.6,
    "strengthMax": 0.9,
    "trainedWords": [
        {"word": "harbour at dusk", "civitai": True},
        {"word": "1boat", "count": 40, "metadata": True},
        {"word": "mine", "user": True},
    ],
    "sha256": SHA256,
    "userNote": "works best at night",
    "raw": {"civitai": CIVITAI, "metadata": {}},
}
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(60)
WEBP = b"RIFF\x40\x00\x00\x00WEBPVP8 " + bytes(60)
MP4 = b"\x00\x00\x00\x18ftypmp42" + bytes(60)


def packed(data: object) -> bytes:
    """*data* as the content of a JSON file."""
    return json.dumps(data).encode()
