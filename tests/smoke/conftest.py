"""What the tests of smoke tests share."""

from __future__ import annotations

import numpy as np
import pytest

from modelhub.smoke import images


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures without details, of which so small a network can tell the velocity."""
    colours = ([0.9, 0.2, 0.2], [0.1, 0.3, 0.9])
    plain = [np.broadcast_to(np.array(colour, np.float32), (64, 64, 3)).copy() for colour in colours]
    monkeypatch.setattr(images, "drawn", lambda _size: plain)
