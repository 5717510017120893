"""What a pickle would do: an abstract machine that imports, calls and constructs nothing of what a file names."""

from modelhub.pickles.declaration import StorageDeclaration, declaration_of
from modelhub.pickles.elements import Elements, Surroundings
from modelhub.pickles.run import trace_pickle
from modelhub.pickles.tensors import (
    TensorReading,
    read_state_dict,
    storage_declarations,
)
from modelhub.pickles.trace import Build, Limits, Mutation, Trace
from modelhub.pickles.tree import describe
from modelhub.pickles.values import Blob, Call, Dict, Global, Persistent, SetOf, Unknown, Value

__all__ = [
    "Blob",
    "Build",
    "Call",
    "Dict",
    "Elements",
    "Global",
    "Limits",
    "Mutation",
    "Persistent",
    "SetOf",
    "StorageDeclaration",
    "Surroundings",
    "TensorReading",
    "Trace",
    "Unknown",
    "Value",
    "declaration_of",
    "describe",
    "read_state_dict",
    "storage_declarations",
    "trace_pickle",
]
