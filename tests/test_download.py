"""Released checkpoints by name: fetched whole or in pieces, put there by hand, verified, converted, kept."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from test_released import released_form, state_equal, tiny

import ffn
from ffn import CheckpointError, create_backbone, create_model
from ffn.checkpoint import read_metadata
from ffn.download import RELEASED, Released, cache_folder, convert, download, fetch, read_labels


class Server:
    """Serves ``contents`` at ``url``, and cuts a connection after ``allowance`` bytes in all."""

    def __init__(self):
        self.contents, self.allowance, self.ranges, self.status = b"", 1 << 40, [], 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start, size = int(asked[1]) if asked else 0, len(server.contents)
                server.ranges.append(start)
                self.send_response(206 if asked else server.status)
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                sent = server.contents[start : start + server.allowance]
                server.allowance -= len(sent)
                self.wfile.write(sent)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = Server()
    yield served
    served.http.shutdown()
    served.http.server_close()


@pytest.fixture
def no_network(monkeypatch):
    """Every connection is refused, also where there is a network."""
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody answers
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    """A small frame-flexible network, and its file as the authors would have released it."""
    model = create_model("tsm_resnet18", 3)
    path = tmp_path_factory.mktemp("released") / "file.pth.tar"
    torch.save({"state_dict": released_form(model), "arch": "resnet18", "epoch": 50}, path)
    return model, path


@pytest.fixture
def small(monkeypatch):
    """``tsm-ffn-ssv1`` is that small network here."""
    monkeypatch.setitem(RELEASED, "tsm-ffn-ssv1", Released("tsm_resnet18", 3, "1" * 33))


def refusal(error: type[Exception], call, *arguments) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message and ". " not in message
    return message


# The table


def test_the_table():
    assert len(RELEASED) == 12 and len({entry.drive for entry in RELEASED.values()}) == 12
    for name, entry in RELEASED.items():
        assert name.split("-")[0] == entry.network.split("_")[0]
        assert entry.network in ffn.list_models()
        assert entry.num_classes == (400 if "k400" in name else 174)
        assert len(entry.drive) == 33


def test_unknown_names(tmp_path):
    message = refusal(ValueError, download, "tsm-ssv3", tmp_path)
    assert "tsm-ssv3" in message and "tsm-ffn-ssv1" in message


def test_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("FFN_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FFN_CACHE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ffn"


# From the network


def test_download_verifies_converts_and_keeps(server, released, small, monkeypatch, tmp_path):
    model, path = released
    monkeypatch.setenv("FFN_CACHE", str(tmp_path))
    monkeypatch.setattr(Released, "url", server.url)
    server.contents = path.read_bytes()
    out = download("tsm-ffn-ssv1")
    assert out == tmp_path / "tsm-ffn-ssv1.safetensors"
    assert [file.name for file in tmp_path.iterdir()] == [out.name]  # nothing else is left
    loaded = ffn.load(out)
    assert loaded.spec == model.spec and state_equal(loaded, model)
    assert read_metadata(out)["converted_from"] == "tsm-ffn-ssv1.pth.tar"
    before = out.stat().st_mtime_ns
    assert download("tsm-ffn-ssv1") == out
    assert out.stat().st_mtime_ns == before and len(server.ranges) == 1
    out.write_bytes(out.read_bytes()[:5000])  # damaged since
    assert state_equal(ffn.load(download("tsm-ffn-ssv1")), model)


def test_what_arrives_is_verified(server, small, monkeypatch, tmp_path):
    monkeypatch.setattr(Released, "url", server.url)
    server.contents = b"<!DOCTYPE html><html>Quota exceeded</html>" * 100
    message = refusal(CheckpointError, download, "tsm-ffn-ssv1", tmp_path)
    assert "damaged or no PyTorch checkpoint" in message and server.url in message
    assert str(tmp_path / "tsm-ffn-ssv1.pth.tar") in message
    assert not list(tmp_path.iterdir())


def test_goes_on_after_a_broken_connection(server, tmp_path):
    server.contents, server.allowance = bytes(range(256)) * 8192, 700_000
    message = refusal(CheckpointError, fetch, server.url, tmp_path / "file")
    assert "connection failed" in message and str(tmp_path / "file") in message and server.url in message
    assert not (tmp_path / "file").exists()
    arrived = sum(part.stat().st_size for part in tmp_path.iterdir())
    assert 0 < arrived <= 700_000
    server.ranges, server.allowance = [], 1 << 40
    assert fetch(server.url, tmp_path / "file") == tmp_path / "file"
    assert (tmp_path / "file").read_bytes() == server.contents
    assert arrived in server.ranges
    assert [part.name for part in tmp_path.iterdir()] == ["file"]


def test_a_checksum_in_the_name(server, tmp_path):
    server.contents = b"weights"
    assert "damaged" in refusal(CheckpointError, fetch, server.url, tmp_path / "net-0123abcd.pth")
    assert not list(tmp_path.iterdir())
    fetch(server.url, tmp_path / f"net-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth")


def test_a_server_that_refuses(server, tmp_path):
    server.status = 404
    message = refusal(CheckpointError, fetch, server.url, tmp_path / "file")
    assert "refused" in message and server.url in message


# By hand


@pytest.mark.parametrize("name, suffix", [("tsm-ffn-ssv1", ".pth.tar"), ("slowfast-ssv1", ".pyth")])
def test_without_a_network(no_network, tmp_path, name, suffix):
    message = refusal(CheckpointError, download, name, tmp_path / "folder")
    assert str(tmp_path / "folder" / f"{name}{suffix}") in message
    assert f"https://drive.google.com/file/d/{RELEASED[name].drive}/view" in message


def test_a_file_put_there_by_hand(no_network, released, small, tmp_path):
    model, path = released
    by_hand = tmp_path / "tsm-ffn-ssv1.pth.tar"
    by_hand.write_bytes(path.read_bytes())
    out = download("tsm-ffn-ssv1", tmp_path)
    assert state_equal(ffn.load(out), model) and ffn.load(out).spec.preprocess == model.spec.preprocess
    assert by_hand.read_bytes() == path.read_bytes()  # it is the user's
    by_hand.unlink()
    assert download("tsm-ffn-ssv1", str(tmp_path)) == out


def test_a_wrong_or_damaged_file_put_there_by_hand(no_network, released, small, tmp_path):
    by_hand = tmp_path / "tsm-ffn-ssv1.pth.tar"
    by_hand.write_bytes(released[1].read_bytes()[:100_000])
    message = refusal(CheckpointError, download, "tsm-ffn-ssv1", tmp_path)
    assert f"{by_hand} is damaged" in message and RELEASED["tsm-ffn-ssv1"].url in message
    torch.save(released_form(create_backbone("tsm_resnet18", 3)), by_hand)
    message = refusal(CheckpointError, download, "tsm-ffn-ssv1", tmp_path)
    assert "is not tsm-ffn-ssv1 but a plain tsm_resnet18 of 3 classes" in message
    assert by_hand.exists() and not (tmp_path / "tsm-ffn-ssv1.safetensors").exists()


# Conversion

NAMES = ("one", "two", "three")


def test_convert_with_class_names(released, tmp_path):
    model, path = released
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    for classes in (tmp_path / "labels.txt", NAMES):
        assert convert(path, tmp_path / "out.safetensors", classes) == tmp_path / "out.safetensors"
        assert json.loads(read_metadata(tmp_path / "out.safetensors")["spec"])["classes"] == list(NAMES)
    assert state_equal(ffn.load(tmp_path / "out.safetensors"), model)
    convert(released_form(model), str(tmp_path / "bare.safetensors"))
    assert json.loads(read_metadata(tmp_path / "bare.safetensors")["spec"])["classes"] is None


def test_convert_refuses_what_does_not_fit(released, tmp_path):
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    message = refusal(ValueError, convert, released[1], tmp_path / "out", tmp_path / "labels.txt")
    assert "labels.txt names 2 classes and the network has 3" in message
    assert not (tmp_path / "out").exists()
    foreign = tiny("tsm", False).state_dict()
    refusal(CheckpointError, convert, {f"x.{name}": t for name, t in foreign.items()}, tmp_path / "out")


# Class names

PAIRS = {"Poking, or not": 1, "Holding something": 2, "Bending (a bit)": 0}


@pytest.mark.parametrize(
    "name, text",
    [
        ("labels.json", json.dumps({name: str(i) for name, i in PAIRS.items()})),  # Something-Something V2
        ("labels.json", json.dumps({f'"{name}"': i for name, i in PAIRS.items()})),  # Kinetics, quoted
        ("labels.json", json.dumps({str(i + 1): name for name, i in PAIRS.items()})),
        ("labels.json", json.dumps(sorted(PAIRS, key=PAIRS.get))),
        ("kinetics.csv", "id,name\n" + "\n".join(f"{i},{name}" for name, i in PAIRS.items())),
        ("class_index.txt", "\n".join(f"{name} {i}" for name, i in PAIRS.items())),
        ("classInd.txt", "\n".join(f"{i + 1} {name}\r" for name, i in PAIRS.items()) + "\n\n"),
        ("category.txt", "\ufeff" + "\n".join(sorted(PAIRS, key=PAIRS.get))),
    ],
)
def test_labels(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("Bending (a bit)", "Poking, or not", "Holding something")


def test_bare_names_keep_their_order_but_in_csv(tmp_path):
    names = ["Holding something", "Bending 2", "Poking, or not", "2 hands"]
    for file in ("labels.csv", "labels.txt"):
        (tmp_path / file).write_text("\n".join(names))
    assert read_labels(tmp_path / "labels.txt") == tuple(names)
    numbered = [f"gesture {i}" for i in range(3)]
    (tmp_path / "numbered.txt").write_text("\n".join(numbered))
    assert read_labels(tmp_path / "numbered.txt") == tuple(numbered)
    assert read_labels(str(tmp_path / "labels.csv")) == tuple(sorted(names))  # Something-Something V1


@pytest.mark.parametrize(
    "name, contents, message",
    [
        ("a.txt", b"", "no class names"),
        ("a.txt", b"one\ntwo\none\n", "'one' more than once"),
        ("a.txt", b"\xff\xfe\x00\xd8", "no text"),
        ("a.json", b"{", "no JSON"),
        ("a.json", b"3", "neither a list of names"),
        ("a.json", b'{"one": 0, "two": 2}', "neither a list of names"),
        ("a.json", b"[]", "no class names"),
        ("missing.txt", None, "no label file"),
    ],
)
def test_label_files_that_are_none(tmp_path, name, contents, message):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    assert message in refusal(ValueError, read_labels, tmp_path / name)
