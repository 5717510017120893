"""Tidying a library: its files go where what they are says they belong, and the catalog goes with them.

naming    from a template and a model's facts to a path that every file system takes
folders   which folder of A1111 and of ComfyUI which kind of model belongs in
beside    the files that stand beside a model and go with it
held      which models stay wherever their names would have them go
plan      which file goes where, which stays, and why; nothing is changed
journal   what is about to be moved, on the disk before it is
moving    one file from one name to another that is free
run       a plan carried out, and one that was interrupted completed
"""

from modelhub.organising.naming import DEFAULT, Template
from modelhub.organising.plan import Move, Plan, Stays, plan_organising
from modelhub.organising.run import Done, Failed, organise, recover

__all__ = ["DEFAULT", "Done", "Failed", "Move", "Plan", "Stays", "Template", "organise", "plan_organising", "recover"]
