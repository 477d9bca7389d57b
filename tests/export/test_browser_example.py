"""The page of examples/browser in a real browser: what it makes, and what it says of it."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from helpers.browser import Page, browser
from helpers.paths import ROOT
from PIL import Image

from latentpatch import LatentPatch
from latentpatch.export.formats import export
from latentpatch.methods.latent.settings import ResynthesisSettings

EXAMPLE = ROOT / "examples" / "browser"

pytestmark = [
    pytest.mark.slow(5),
    pytest.mark.skipif(browser() is None, reason="no Chromium: the example's page was not tested"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm: the example's page was not tested"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's packages: those of the repository where they are installed, else from the registry."""
    if (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir():
        return EXAMPLE / "node_modules"
    folder = tmp_path_factory.mktemp("packages")
    shutil.copy(EXAMPLE / "package.json", folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
    if not os.access(Path.home(), os.W_OK):  # npm keeps what it fetched there
        command += ["--cache", str(folder / "cache")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("npm install took more than five minutes: the example's page was not tested")
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")):
        pytest.skip("npm's registry cannot be reached: the example's page was not tested")
    assert done.returncode == 0, done.stderr
    return folder / "node_modules"


def installed(folder: Path, packages: Path) -> Path:
    """The example with its packages."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "graphs", "sources"))
    (folder / "node_modules").symlink_to(packages)
    return folder


@pytest.fixture(scope="module")
def model(faces: Path) -> LatentPatch:
    return LatentPatch("pixels:4", 8, ResynthesisSettings(sweeps=1)).fit(faces, size=64)


@pytest.fixture(scope="module")
def address(model: LatentPatch, faces: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: the example's page was not tested")
    folder = installed(tmp_path_factory.mktemp("site") / "browser", packages)
    export(model, folder / "graphs", only=("generate",))
    (folder / "sources").mkdir()
    for face in faces.iterdir():
        Image.open(face).save(folder / "sources" / f"{face.stem}.jpg")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def wait_for(page: Page, condition: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not page.js(condition):
        assert time.monotonic() < end, (page.js("document.body.innerText"), page.errors)
        time.sleep(0.1)


def generate(page: Page, seed: int, count: int) -> None:
    page.js(f"[['seed', '{seed}'], ['count', '{count}']].forEach(([id, v]) => document.getElementById(id).value = v)")
    page.click("button")
    wait_for(page, "!document.querySelector('button').disabled")


def pictures(page: Page) -> list[np.ndarray]:
    urls = page.js("[...document.querySelectorAll('figure canvas:first-child')].map((each) => each.toDataURL())")
    files = (io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls)
    return [np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in files]


def test_pictures_are_those_of_the_package_and_cells_name_their_sources(model, address, tmp_path):
    with Page() as page:
        page.open(address)
        wait_for(page, "!document.querySelector('button').disabled")
        generate(page, 5, 3)
        expected = model.generate(3, seed=5)
        made = pictures(page)
        assert len(made) == 3
        for picture, image in zip(made, expected.images, strict=True):
            assert np.abs(picture - 255 * image.movedim(0, -1).numpy()).max() <= 1.01
        page.hover("figure:nth-of-type(2) canvas")  # between the four cells in the middle; belongs to the last of them
        source = model.bank.ids[int(expected.index[1, 8, 8])]
        share = float((expected.index[1] == expected.index[1, 8, 8]).float().mean())
        wait_for(page, "document.getElementById('thumbnail').naturalWidth > 0")
        assert (
            page.js("document.getElementById('source').textContent")
            == f"{source}, {round(100 * share)} % of the picture"
        )
        assert page.js("document.getElementById('thumbnail').src") == f"{address}sources/{source}.jpg"
        page.screenshot(tmp_path / "page.png")
        generate(page, 2**64, 1)  # beyond what a number of JavaScript holds
        assert (
            np.abs(pictures(page)[0] - 255 * model.generate(seed=2**64).images[0].movedim(0, -1).numpy()).max() <= 1.01
        )
        assert all(request.startswith((address, "data:", "blob:")) for request in page.requests)
        assert page.errors == []


def test_says_what_is_missing(packages, tmp_path):
    folder = installed(tmp_path / "browser", packages)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    with Page() as page:
        page.open(f"http://127.0.0.1:{server.server_port}/")
        wait_for(page, "document.getElementById('status').classList.contains('error')")
        assert "graphs/export.json is missing" in page.js("document.getElementById('status').textContent")
        assert page.js("document.querySelector('button').disabled")
    server.shutdown()
    server.server_close()
