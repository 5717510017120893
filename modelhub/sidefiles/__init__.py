"""The small files that other programs keep beside a model, and what they claim of it.

naming    which files stand beside which models, by their names alone
reading   what one of them says, as data and within limits
writing   the same facts in a dialect that another program reads
base      the facts themselves: :class:`Claims`

One module for each dialect. What a side file says is a claim of whoever wrote it: it is shown beside what the model's
own bytes say, and decides nothing.
"""

from modelhub.sidefiles.base import Claims, ModelFile

__all__ = ["Claims", "ModelFile"]
