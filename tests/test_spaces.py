"""The repository as it is pushed starts as a Gradio Space, and behind one port as the Docker image does."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from demo_page import ROOT, free_port, wait_until_up

BIN = Path(sys.executable).parent
NGINX, HONCHO = shutil.which("nginx"), (BIN / "honcho").exists()
DASHBOARD = (ROOT / "app" / "dashboard.py").exists()


def front_matter() -> dict[str, str]:
    block = (ROOT / "README.md").read_text().split("---\n")[1]
    return dict(re.findall(r"^(\w+): \"?([^\"\n]+)", block, re.MULTILINE))


def requirements(text: str) -> set[str]:
    return set(re.findall(r"^\s*\"?([\w-]+>=[\d.]+)", text, re.MULTILINE))


def test_front_matter_and_requirements_fit_the_project():
    fields, project = front_matter(), (ROOT / "pyproject.toml").read_text()
    assert fields["sdk"] == "gradio" and (ROOT / fields["app_file"]).is_file()
    floor = re.search(r'"gradio>=([\d.]+)"', project)[1]
    assert tuple(map(int, fields["sdk_version"].split("."))) >= tuple(map(int, floor.split(".")))
    assert tuple(map(int, fields["python_version"].split("."))) >= (3, 10)
    assert requirements((ROOT / "requirements.txt").read_text()) <= requirements(project)


@pytest.mark.slow
def test_the_repository_starts_as_a_space(tmp_path):
    """What git tracks, in an empty folder; requirements.txt alone, in a fresh environment."""
    code, environment = tmp_path / "app", tmp_path / "venv"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, code / name)
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install = [python, "-m", "pip", "install", "-q", "-r", code / "requirements.txt"]
    subprocess.run(install, cwd=tmp_path, check=True)

    port = free_port()
    settings = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port), "HOME": str(tmp_path)}
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    process = subprocess.Popen(
        [python, front_matter()["app_file"]],
        cwd=code,
        env=kept | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until_up(f"http://127.0.0.1:{port}", process, 180)
        from gradio_client import Client, handle_file

        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        example = handle_file(ROOT / "assets/examples/moving-left-to-right.webm")
        answer = client.predict(example, frames=8, network="", api_name="/predict")
        assert answer["flexible"][0]["class"] == "moving something left to right"
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.skipif(not (NGINX and HONCHO and DASHBOARD), reason="needs nginx, honcho and the dashboard")
def test_one_port_for_all(tmp_path):
    """deploy/start with nginx for real."""
    from demo_networks import write_networks

    port = free_port()
    settings = {"PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment = os.environ | settings | write_networks(tmp_path)
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    process = subprocess.Popen(
        ["deploy/start"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url, process, 120)
        from gradio_client import Client, handle_file

        example = handle_file(ROOT / "assets/examples/moving-closer.webm")
        answer = Client(url, verbose=False).predict(example, frames=4, network="", api_name="/predict")
        assert answer["frames"] == 4
        wait_for_dashboard(f"{url}/dashboard/")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_for_dashboard(address: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            assert b"<title>" in urllib.request.urlopen(address, timeout=30).read()
            return
        except urllib.error.HTTPError as error:  # 502 while it starts
            if error.code != 502 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
