"""The ASGI server and its clients, as users run them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("pydantic", reason="the serve extra is not installed")

from helpers import traffic
from helpers.live_app import Live
from helpers.paths import ROOT

from latentpatch.serving import Service

CLIENT = ROOT / "examples" / "client.py"
PICTURE = traffic.text(traffic.face(20))
BOX = {"box": [16, 32, 80, 96]}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, env=kept | environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command(tmp_path: Path, faces: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = pytest.importorskip("latentpatch.serving.app", reason="the http extra is not installed")
    assert module.main([str(tmp_path / "none")]) == 1
    assert module.main([str(faces), "--token-file", str(tmp_path / "none")]) == 1
    assert module.main([str(faces), "--queue-size", "0"]) == 1
    assert module.main([str(faces), "--device", "abacus"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["latentpatch:"] * 4  # no traceback
    assert "abacus" in lines[-1]
    (tmp_path / "token").write_text("s3cret\n")
    command = [sys.executable, "-m", "latentpatch.serving.app", faces, "--autoencoder", "pixels", "--port", "0"]
    options = ["--threads", "1", "--token-file", tmp_path / "token"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            output = ""
            while (found := re.search(r"http://127\.0\.0\.1:(\d+)", output)) is None:
                line = process.stderr.readline()
                assert line, output
                output += line
            url = found[0]
            refused = run(sys.executable, CLIENT, "--url", url, "info")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "401 unauthorized" in refused.stderr
            (tmp_path / "key_file.json").write_text('{"inference": {"key": "s3cret"}}')
            client = (sys.executable, CLIENT, "--url", url, "--key-file", tmp_path / "key_file.json")
            assert json.loads(run(*client, "info").stdout)["autoencoder"]["name"] == "pixels"
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=30)
    assert "Application shutdown complete" in rest[1]
    assert "s3cret" not in output + "".join(rest)


def test_the_python_client(tmp_path: Path, live: Live, service: Service) -> None:
    def client(*arguments: str | Path) -> list[str]:
        done = run(sys.executable, CLIENT, "--url", live.url, *arguments, "-o", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def made(name: str) -> bytes:
        return (tmp_path / "out" / name).read_bytes()

    face = tmp_path / "face.png"
    face.write_bytes(base64.b64decode(PICTURE))
    assert len(client("generate", "-n", "3", "--seed", "4", "--settings", '{"neighbours": 2}')) == 3
    sent = traffic.as_json({"seed": 5, "settings": {"neighbours": 2}})
    assert made("0001.png") == traffic.expected(service, sent).body
    assert [row["seed"] for row in json.loads(made("report.json"))["images"]] == [4, 5, 6]
    client("inpaint", face, "--box", "16,32,80,96", "--image-format", "webp")
    sent = traffic.as_json({"operation": "inpaint", "image": PICTURE, **BOX, "image_format": "webp"})
    assert made("0000.webp") == traffic.expected(service, sent).body
    client("edit", face, "--mask", face, "--donor", "source:3")
    sent = traffic.as_json({"operation": "edit", "image": PICTURE, "mask": PICTURE, "donor": "source:3"})
    assert made("0000.png") == traffic.expected(service, sent).body
    refused = run(sys.executable, CLIENT, "--url", live.url, "generate", "-n", "999", "-o", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("client: 413 too_many_images: n")
    nobody = run(sys.executable, CLIENT, "--url", "http://127.0.0.1:9", "info")
    assert nobody.returncode == 1
    assert "refused" in nobody.stderr


def test_the_curl_client(tmp_path: Path, service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    (tmp_path / "face.png").write_bytes(base64.b64decode(PICTURE))
    out = tmp_path / "out"
    with Live(service, token="s3cret") as live:
        done = run("sh", ROOT / "examples/client.sh", tmp_path / "face.png", out, URL=live.url, TOKEN="s3cret")
        assert done.returncode == 0, done.stdout + done.stderr
        refused = run("sh", ROOT / "examples/client.sh", tmp_path / "face.png", out / "none", URL=live.url)
        assert refused.returncode == 22
    assert (out / "seven.png").read_bytes() == traffic.expected(service, traffic.as_json({"seed": 7})).body
    assert (out / "reconstructed.png").read_bytes() == (out / "reconstructed-too.png").read_bytes()
    assert (out / "like-it.png").read_bytes() == (out / "like-it-too.png").read_bytes()
    for path in sorted(out.iterdir()):
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                assert len(archive.namelist()) in (4, 5)
        elif path.suffix in (".png", ".jpg", ".webp"):
            assert Image.open(io.BytesIO(path.read_bytes())).size == (128, 128)
    assert len(list(out.glob("*.*"))) == 18


def test_the_client_names_the_largest_source(live: Live, tmp_path: Path) -> None:
    done = run(sys.executable, CLIENT, "--url", live.url, "generate", "-n", "2", "-o", tmp_path / "new")
    rows = json.loads((tmp_path / "new" / "report.json").read_text())["images"]
    for line, row in zip(done.stdout.splitlines(), rows, strict=True):
        assert f"({max(row['shares'].values()):.0%})" in line
