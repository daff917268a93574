"""The page on configuration tells the truth."""

from pathlib import Path

from pydantic import BaseModel

from warden.config.document import page
from warden.config.load import section_of
from warden.config.tree import Config

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_in_docs_is_what_the_tree_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_key_has_a_meaning() -> None:
    def walk(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            inner = section_of(field.annotation)
            assert field.description or (inner and inner.__doc__), f"{section.__name__}.{name}"
            if inner:
                walk(inner)

    walk(Config)
