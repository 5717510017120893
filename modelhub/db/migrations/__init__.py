"""How a catalog of any released version becomes one of this version (alembic)."""
