"""Side files that are not JSON: descriptions, digests and configurations."""

from __future__ import annotations

import re

from modelhub.sidefiles.base import Claims, digest_pair
from modelhub.sidefiles.fields import JSON, LONGEST_TEXT, text

_LINE_OF_SUMS = re.compile(r"\s*([0-9a-fA-F]{64})(?:\s+\*?(\S.*))?\s*")


def description(said: str) -> Claims:
    """``NAME.txt`` and ``NAME.description.txt``, which AUTOMATIC1111's web UI shows as the description of NAME."""
    return Claims(description=said[: LONGEST_TEXT * 2].strip()[:LONGEST_TEXT].strip() or None)


def checksum(said: str, file_name: str) -> Claims:
    """``NAME.sha256``: the digest alone, or lines as ``sha256sum`` writes them, of which one names the model."""
    lines = [match for line in said.splitlines()[:1000] if (match := _LINE_OF_SUMS.fullmatch(line[:5000]))]
    own = [match for match in lines if (match[2] or "").replace("\\", "/").rpartition("/")[2].strip() == file_name]
    chosen = own or [match for match in lines if match[2] is None]
    pair = digest_pair("sha256", chosen[0][1]) if len(chosen) == 1 else None
    return Claims(digests=(pair,) if pair is not None else ())


def configuration(said: str, name: str) -> Claims:
    """``NAME.yaml``, the configuration of a checkpoint, called *name* itself: what it says of the prediction type."""
    from modelhub.identify.side_file import told_in

    told = told_in(said, name)
    return Claims(prediction_type=told.value if told is not None else None)


def component_config(data: JSON) -> Claims:
    """``NAME.config.json``, a configuration of diffusers': what it says of the prediction type."""
    return Claims(kind=text(data, "_class_name"), prediction_type=text(data, "prediction_type"))
