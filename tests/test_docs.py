"""The documentation names what there is: every page, every file that travels, and the API of today."""

import re
from pathlib import Path

import pytest
import write_api


ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def test_the_api_page_is_current():
    assert write_api.PAGE.read_text() == write_api.render(), "run `python docs/write_api.py`"


def test_the_api_page_names_everything_that_is_exported():
    import modeling_pvc

    assert set(re.findall(r"^### `(\w+)`$", write_api.render(), re.MULTILINE)) == set(modeling_pvc.__all__)


def test_docstrings_as_markdown():
    docstring = """First line.

    Args:
        pixels (`Tensor`): what is
            shown.

    Returns:
        A number.

    >>> f(1)
    2
    """
    assert write_api._markdown(docstring) == (
        "First line.\n\n**Args**\n\n- `pixels` (`Tensor`): what is\n  shown.\n\n**Returns**\n\nA number.\n\n"
        "```python\n>>> f(1)\n2\n```\n"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """Paths from the root of the repository, in backticks."""
    folders = "modeling_pvc|conversion|docs|tests|examples|benchmarks"
    for path in re.findall(rf"`((?:{folders})/[\w/.-]*\w)`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_the_map_lists_every_file_of_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "modeling_pvc"
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        assert path.name == "__init__.py" or f"`{name}`" in text, name
