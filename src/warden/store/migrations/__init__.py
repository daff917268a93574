"""Alembic's folder: each version's step to the next schema. Steps only add (expand) until no older version runs."""
