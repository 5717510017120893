"""An examiner with every fault that the fuzzer looks for, each at one of the original files."""

from __future__ import annotations

import os
import time
from typing import Any

from fuzz.examiner import examine
from fuzz.workers import serve


def bad(request: dict[str, Any]) -> dict[str, Any]:
    """Examine a file, badly."""
    if request["name"] == "page.ckpt":
        os._exit(3)
    if request["name"] == "empty.pt":
        time.sleep(60)
    answer = examine(request)
    if request["name"] == "gguf.gguf" and request["data"]:
        answer["error"] = "ValueError: no"
    if request["name"] == "array.npy":
        answer["error"] = "MemoryError"
    if request["name"] == "objects.npy":
        answer["seconds"] = 5.1
    return answer


if __name__ == "__main__":
    serve(bad)
