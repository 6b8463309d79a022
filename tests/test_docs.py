"""README and docs: their links lead somewhere, and the README's Python runs as it stands."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from trainers import check, reproduce, ship
from trainers.evaluate import Settings
from trainers.run import parse

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


def test_the_readmes_python_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def commands(page, module):
    """The arguments of every ``python -m MODULE`` in the code blocks of ``page`` (torchrun's too)."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [
        shlex.split(line.split(f"-m {module} ")[1], comments=True) for line in lines if f"-m {module} " in line
    ]
    return [arguments for arguments in found if "..." not in arguments]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_are_understood(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no run has been yet
    for arguments in commands(page, "trainers.run"):
        if not {"--resume", "--list-recipes"} & set(arguments):
            assert parse(arguments)
    for arguments in commands(page, "trainers.evaluate"):
        tyro.cli(Settings, args=arguments).check()
    for module, function in (("reproduce", reproduce.main), ("ship", ship.main), ("check", check.main)):
        for arguments in commands(page, f"trainers.{module}"):
            tyro.cli(_only_parse(function), args=arguments)


def _only_parse(function):
    """With the arguments of ``function``, and no effect."""

    @functools.wraps(function)
    def parsed(*_, **__):
        pass

    return parsed


@pytest.mark.slow
def test_the_readmes_ffn_commands_run(tmp_path):
    """From clone to a prediction and an exported network, as it stands there."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    ran = []
    for arguments in commands(ROOT / "README.md", "ffn"):
        if arguments[0] == "download":  # from the network
            continue
        done = subprocess.run(
            [sys.executable, "-m", "ffn", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        ran.append(arguments[0])
    assert {"predict", "export", "benchmark"} <= set(ran)
    assert (tmp_path / "tsm_tiny-8.onnx").stat().st_size > 1e6
