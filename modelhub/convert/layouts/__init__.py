"""Key layouts: the same model as a single-file checkpoint (LDM names) and as a diffusers folder.

:func:`to_diffusers` and :func:`to_ldm` say, from names and shapes alone, of which views of which source tensors every
tensor of the other layout is made; :func:`resolve` makes a view a tensor with offset and strides of its own, so that
its bytes can be copied like any other's. Both directions go through the same list of places, so that each is the
other's inverse. The rules follow the structure that the names show: any depth and number of levels that both layouts
can express.
"""

from __future__ import annotations

from modelhub.convert.layouts.alone import to_autoencoder, to_text_encoder
from modelhub.convert.layouts.base import CHECKPOINT, UNPLACED, Layout, Place, Shape, Shapes, View
from modelhub.convert.layouts.components import FOLDER_COMPONENTS, component_under_diffusers_names
from modelhub.convert.layouts.configs import Told, given_when_loading
from modelhub.convert.layouts.control import to_controlnet, to_t2i_adapter
from modelhub.convert.layouts.plan import as_it_lies, diffusers_views, to_diffusers, to_ldm, viewed_shape
from modelhub.convert.layouts.views import resolve

__all__ = [
    "CHECKPOINT",
    "FOLDER_COMPONENTS",
    "UNPLACED",
    "Layout",
    "Place",
    "Shape",
    "Shapes",
    "Told",
    "View",
    "as_it_lies",
    "component_under_diffusers_names",
    "diffusers_views",
    "given_when_loading",
    "resolve",
    "to_autoencoder",
    "to_controlnet",
    "to_diffusers",
    "to_ldm",
    "to_t2i_adapter",
    "to_text_encoder",
    "viewed_shape",
]
