"""What the documentation names is there."""

import re
from pathlib import Path

import pytest

from sdseg.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])((?:sdseg|synth_data|configs|tests|benchmarks|docs|dev)(?:/[\w.-]+)*/?)(?![\w*<])")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_exist(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    text = "\n".join(
        line for line in lines if not line.startswith("Quoted from")
    )  # whose files are other repositories'
    named = {match.rstrip(".") for match in NAMED.findall(text) if "/" in match}
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_shows_exist(page):
    text = page.read_text(encoding="utf-8")
    words = set(re.findall(r"^(?:\$ )?sdseg ([a-z_]+)", text, re.MULTILINE)) | set(
        re.findall(r"`sdseg ([a-z_]+)", text)
    )
    assert words <= COMMANDS.keys()
    for module in re.findall(r"python -m ((?:sdseg|synth_data)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_architecture_walks_name_every_module_of_the_wings_they_cross():
    """A module that no walk mentions is either missing from the page or has no place in the house."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    walks = text[text.index("## A photo's way") :]
    assert len(re.findall(r"^## ", walks, re.MULTILINE)) == 4
    for heading in re.split(r"^## ", walks, flags=re.MULTILINE)[1:]:
        steps = re.findall(r"^(\d)\. ", heading, re.MULTILINE)
        assert steps == [str(number + 1) for number in range(len(steps))] and len(steps) >= 4
        assert len(set(NAMED.findall(heading))) >= 4
