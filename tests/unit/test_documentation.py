"""README.md and docs/: their form, their links, the site, and which blocks no test runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from documentation import NEEDS, PAGES, ROOT, RUN, Block, blocks

DOCS = ROOT / "docs"
#: Tables that are looked up, not read.
REFERENCE = {"commands", "configuration", "ensemble", "openai-fields"}
MOST_WORDS = 1200
#: Blocks that tests/serving/test_docs.py does not run.
NOT_RUN = {"gpu": 1, "cluster": 6, "image": 3}
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


def pages() -> list[Path]:
    return sorted(DOCS.glob("*.md"))


def not_run() -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.needs]


def test_only_blocks_for_other_machines_do_not_run() -> None:
    for block in not_run():
        where = f"{block.page}:{block.line}"
        assert block.needs in NEEDS, where
        assert re.search(NEEDS[block.needs], block.text), f"{where} needs no {block.needs}"
    assert Counter(block.needs for block in not_run()) == NOT_RUN


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_begins_with_what_its_reader_gets_and_is_short(page: Path) -> None:
    text = page.read_text()
    title, _, first = text.partition("\n\n")
    assert re.fullmatch(r"# \S.*", title)
    assert re.match(r"[A-Z`]", first), "a sentence"
    if page.stem not in REFERENCE:
        assert len(text.split()) <= MOST_WORDS


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_site_has_every_page_once() -> None:
    found = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(found) == [page.name for page in pages()]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT])
def test_links_outside_of_the_site(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"(?m)^#+ (.*)", path.read_text())
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, f"{target}#{anchor}"


def test_the_site_builds(tmp_path: Path) -> None:
    """Strictly: a link or an anchor that leads nowhere is an error."""
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*mkdocs, "--site-dir", str(tmp_path)],
        cwd=ROOT, env=quiet, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "index.html").is_file()


def test_the_examples_have_one_name() -> None:
    """The repository is model_repo, the model's folder is model."""
    other = r"generate.*--output (?!model_repo\b)\w|--model(?:-repo)? \./|SmolLM2-135M-Instruct/"
    for page in PAGES:
        for block in blocks(page):
            if block.language in RUN:
                assert not re.search(other, block.text), f"{block.page}:{block.line}"
