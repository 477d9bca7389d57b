import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.paths import PORTRAITS, ROOT
from safetensors.torch import save_file
from torch import Tensor

from latentpatch import (
    SAMPLERS,
    FileError,
    LatentPatch,
    LatentPatchError,
    Settings,
    load_autoencoder,
    register,
    setting,
)
from latentpatch.cli.main import main
from latentpatch.evaluation import (
    Evaluation,
    Extractor,
    Protocol,
    Row,
    bootstrap,
    coverages,
    densities,
    frechet_distance,
    kernel_distance,
    kolmogorov_smirnov,
    leading_directions,
    load_extractor,
    parse_row,
    precisions,
    random_pairs,
    read_features,
    read_tables,
    recalls,
    recovery_errors,
    seam_energies,
    standard_rows,
)
from latentpatch.evaluation.memorization import memorisation
from latentpatch.evaluation.metrics import weighted_pair_mean
from latentpatch.evaluation.protocol import with_copier
from latentpatch.io.images import read_image
from latentpatch.methods.latent.random_tiles import RandomCells


def draw(count: int, dimensions: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=chance, dtype=torch.float64) * scale + shift


def with_moments(mean: Tensor, root: Tensor, count: int, seed: int = 0) -> Tensor:
    """Vectors whose sample mean is exactly ``mean`` and whose sample covariance is exactly ``root' root``."""
    white = draw(count, len(mean), seed)
    white = white - white.mean(0)
    white = torch.linalg.qr(white).Q * (count - 1) ** 0.5
    return white @ root + mean


# --- metrics ---------------------------------------------------------------------------------------------


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    deviations, others = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    a = with_moments(torch.tensor([0.0, 1.0, 2.0]).double(), deviations.diag(), 40)
    b = with_moments(torch.tensor([1.0, 1.0, 0.0]).double(), others.diag(), 25, seed=1)
    # For covariances that commute: |m - n|^2 + |s - t|^2.
    assert frechet_distance(a, b) == pytest.approx(5 + float((deviations - others).square().sum()), abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(draw(3, 3, 2)).Q
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))


@pytest.mark.parametrize("count", [3, 60])
def test_frechet_distance_agrees_with_a_matrix_root(count: int) -> None:
    a, b = draw(count, 5, 0) @ draw(5, 5, 1), draw(31, 5, 2, shift=0.3)
    product = torch.cov(a.T) @ torch.cov(b.T)
    root = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-7)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
def test_weights_count_vectors_as_if_repeated(metric: object) -> None:
    a, b = draw(6, 3, 0), draw(9, 3, 1)
    weights = torch.tensor([2.0, 0, 1, 3, 1, 1])
    if metric is frechet_distance:
        repeated = a.repeat_interleave(weights.long(), 0)
        assert frechet_distance(a, b, weights=weights) == pytest.approx(frechet_distance(repeated, b))
    else:  # a vector and its copy are no pair, or a resample would not be unbiased
        kernel = (a @ a.T / 3 + 1) ** 3
        pairs = weights.outer(weights).double()
        pairs.fill_diagonal_(0)
        within = (pairs * kernel).sum() / pairs.sum()
        others = (b @ b.T / 3 + 1) ** 3
        without = (others.sum() - others.trace()) / (9 * 8)
        across = (weights.double() @ (a @ b.T / 3 + 1) ** 3).mean() / weights.sum()
        assert kernel_distance(a, b, weights=weights) == pytest.approx(float(within + without - 2 * across))
    ones = torch.ones(6)
    assert metric(a, b, weights=ones) == pytest.approx(metric(a, b))


def test_kernel_distance_is_zero_on_average_within_one_distribution() -> None:
    values = [kernel_distance(draw(30, 4, 2 * i), draw(20, 4, 2 * i + 1)) for i in range(200)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    assert min(values) < 0  # unbiased, so not bounded by zero
    assert kernel_distance(draw(30, 4), draw(20, 4, 1, shift=1.0)) > 10 * np.std(values)


def test_kernel_distance_of_points_on_a_line() -> None:
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # Kernels (x y + 1)^3: within a: 1; within b: 27; across: 1, 1, 8, 27.
    assert kernel_distance(a, b) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_precision_and_recall_at_their_extremes() -> None:
    real = draw(40, 3)
    assert precisions(real, real).mean() == recalls(real, real).mean() == 1
    far = real + 100
    assert precisions(far, real).mean() == recalls(far, real).mean() == 0
    collapsed = real[:1] + 1e-3 * draw(40, 3, 1)  # one mode: faithful, not varied
    assert precisions(collapsed, real).mean() == 1
    assert recalls(collapsed, real).mean() < 0.1
    spread = torch.cat([real, far])
    assert precisions(spread, real).mean() == 0.5
    assert recalls(spread, real).mean() == 1


def test_density_and_coverage_of_known_cases() -> None:
    real = torch.arange(10.0)[:, None]  # with k = 1 every ball has radius 1
    near = torch.tensor([[2.5], [100.0]])  # within the balls of 2 and 3, and of none
    assert densities(near, real, k=1).tolist() == [2, 0]
    assert coverages(near, real, k=1).tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    # One outlier among the real ones makes a vast ball: precision takes it, density hardly.
    outlier = torch.cat([draw(50, 2), torch.full((1, 2), 30.0).double()])
    astray = draw(50, 2, 1, shift=15.0, scale=0.1)
    assert precisions(astray, outlier).mean() == 1
    assert densities(astray, outlier).mean() < 0.3
    assert coverages(astray, outlier).mean() < 0.05
    same = [float(densities(draw(300, 4, 2 * i), draw(300, 4, 2 * i + 1)).mean()) for i in range(5)]
    assert np.mean(same) == pytest.approx(1, abs=0.05)


def test_leading_directions_hold_the_references_variance() -> None:
    reference = draw(30, 6) * torch.tensor([1.0, 9, 1, 5, 1, 1]).double()
    basis = leading_directions(reference, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2).double())
    assert basis[[1, 3]].square().sum() > 1.9
    assert leading_directions(reference[:4], 64).shape == (6, 3)


def test_kolmogorov_smirnov() -> None:
    low, high = torch.arange(20.0), torch.arange(20.0) + 100
    assert kolmogorov_smirnov(low, high) == pytest.approx((1, 1 / 10000))
    assert kolmogorov_smirnov(low, low) == (0.0, 1.0)  # ties are no steps
    statistic, _ = kolmogorov_smirnov(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.5, 3.5, 4.5]))
    assert statistic == pytest.approx(0.5)
    # Of the 6 ways to choose 2 of 4, two separate them.
    assert kolmogorov_smirnov(low[:2], high[:2])[1] == pytest.approx(1 / 3, abs=0.02)
    values = [kolmogorov_smirnov(draw(30, 1, 2 * i)[:, 0], draw(25, 1, 2 * i + 1)[:, 0], 499)[1] for i in range(100)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.1)


def test_random_pairs_are_of_different_pictures() -> None:
    first, second = random_pairs(5, 1000)
    assert bool((first != second).all())
    assert set(first.tolist()) == set(second.tolist()) == set(range(5))
    assert torch.equal(random_pairs(5, 1000)[1], second)
    with pytest.raises(ValueError, match="pairs of 1 pictures"):
        random_pairs(1, 3)


def test_pairs_count_as_often_as_their_pictures() -> None:
    distances, first, second = torch.tensor([1.0, 5.0]), torch.tensor([0, 1]), torch.tensor([1, 2])
    assert weighted_pair_mean(distances, first, second) == 3
    assert weighted_pair_mean(distances, first, second, torch.tensor([2.0, 1, 1])) == pytest.approx(7 / 3)
    assert weighted_pair_mean(distances, first, second, torch.tensor([3.0, 0, 0])) == 3


def test_bootstrap_is_repeatable_and_covers() -> None:
    def interval(values: Tensor, **options: float) -> tuple[float, float]:
        return bootstrap(lambda weights: float(weights[0] @ values / weights[0].sum()), [len(values)], **options)

    values = draw(50, 1)[:, 0]
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)
    low, high = interval(values, resamples=2000)
    half = 1.96 * float(values.std(correction=0)) / 50**0.5
    assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.1 * half)
    covered = sum(low <= 0 <= high for low, high in (interval(draw(40, 1, i)[:, 0]) for i in range(200)))
    assert 175 <= covered <= 199  # of 200, 190 expected
    for options, text in (({"resamples": 1}, "resamples 1"), ({"level": 1.0}, "level 1")):
        with pytest.raises(ValueError, match=text):
            interval(values, **options)


def test_bootstrap_of_a_distance_lies_about_it() -> None:
    a, b = draw(60, 8), draw(80, 8, 1)
    value = frechet_distance(a, b)
    low, high = bootstrap(lambda weights: frechet_distance(a, b, weights=weights[0]), [60], 100)
    assert low < value < high


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (torch.zeros(1, 3), "N at least 2"),
        (torch.zeros(4), "shape"),
        (torch.full((4, 3), torch.nan), "NaN"),
        (torch.zeros(4, 2), "2 dimensions"),
    ],
)
def test_metrics_refuse_what_is_no_set(features: Tensor, text: str) -> None:
    for metric in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=text):
            metric(features, torch.zeros(5, 3))
    with pytest.raises(ValueError, match="k 5"):
        coverages(draw(5, 2), draw(5, 2))


# --- features --------------------------------------------------------------------------------------------


def test_latents_are_the_default_extractor() -> None:
    autoencoder = load_autoencoder("pixels:4")
    extractor = load_extractor("latents", autoencoder)
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = extractor.features(pictures)
    latents = autoencoder.encode(pictures).double()
    assert features.dtype == torch.float64
    torch.testing.assert_close(features[:, : latents.shape[1]], latents.mean((2, 3)))
    distances = extractor.pair_distances(pictures, torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert distances[0] == pytest.approx(float((latents[0] - latents[2]).square().mean()))
    assert distances[1] == 0
    assert "not comparable" in extractor.note.replace("\n", " ")


def test_an_extractor_may_be_a_file_a_module_or_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def means(x):\n    return x.mean((2, 3))\n\nclass extractor:\n    note = 'mine'\n"
                    "    def __call__(self, x):\n        return x.amax((2, 3)).numpy()\n")  # fmt: skip
    autoencoder, pictures = load_autoencoder("pixels"), torch.rand(3, 3, 16, 16)
    named = load_extractor(f"{path}:means", autoencoder)
    torch.testing.assert_close(named.features(pictures), pictures.mean((2, 3)).double())
    apart = named.pair_distances(pictures, torch.tensor([0]), torch.tensor([1]))
    assert apart[0] == pytest.approx(float((pictures[0] - pictures[1]).mean((1, 2)).norm()), rel=1e-5)
    whole = load_extractor(str(path), autoencoder)
    torch.testing.assert_close(whole.features(pictures), pictures.amax((2, 3)).double())
    assert (whole.name, whole.note, named.note) == ("mine", "mine", "")
    assert whole.digest == named.digest is not None
    monkeypatch.syspath_prepend(tmp_path)
    assert load_extractor("mine:means", autoencoder).name == "mine:means"


def test_what_is_no_extractor_is_refused(tmp_path: Path) -> None:
    autoencoder = load_autoencoder("pixels")
    broken, empty = tmp_path / "broken.py", tmp_path / "empty.py"
    broken.write_text("raise OSError('no weights')")
    empty.write_text("number = 3")
    for text, kind, message in (
        ("fid", ValueError, "'fid': one of latents, inception, lpips"),
        (str(tmp_path / "none.py"), FileError, "no such file"),
        (str(broken), LatentPatchError, "OSError: no weights"),
        (str(empty), LatentPatchError, "defines no 'extractor'"),
        (f"{empty}:number", TypeError, "a callable is expected"),
        ("no_such_module_here:f", LatentPatchError, "ModuleNotFoundError"),
    ):
        with pytest.raises(kind, match=message):
            load_extractor(text, autoencoder)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda x: x.mean((2, 3)) * torch.nan, "NaN"),
        (lambda x: x.mean((1, 2, 3)), r"shape \(4, D\)"),
        (lambda x: x.mean((2, 3))[:2], r"shape \(4, D\)"),
        (lambda x: x.argmax(1).flatten(1), "floating-point"),
        (lambda x: [1.0], "floating-point"),
    ],
)
def test_answers_of_an_extractor_are_checked(answer: object, text: str) -> None:
    extractor = Extractor("odd", answer)
    with pytest.raises(ValueError, match=text):
        extractor.features(torch.rand(4, 3, 16, 16))


def test_an_extractor_keeps_to_one_number_of_dimensions_and_finite_distances() -> None:
    extractor = Extractor("growing", lambda x: x.mean(2).flatten(1)[:, : 2 + len(x)])
    extractor.features(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="5 dimensions, before 4"):
        extractor.features(torch.rand(3, 3, 16, 16))

    class Wrong:
        def __call__(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

        def pair_distances(self, images: Tensor, first: Tensor, second: Tensor) -> Tensor:
            return torch.full((len(first),), torch.inf)

    with pytest.raises(ValueError, match="2 finite distances"):
        Extractor("wrong", Wrong()).pair_distances(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), torch.tensor([1, 0]))


class FakeInception:
    """The interface of torch-fidelity's extractor, which cannot be run without its weights."""

    def __init__(self, name: str, features_list: list[str]) -> None:
        assert (name, features_list) == ("inception-v3-compat", ["2048"])

    def to(self, device: torch.device) -> "FakeInception":
        return self

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.dtype == torch.uint8
        return (x.float().mean((2, 3)).repeat(1, 683)[:, :2048],)


class FakeLPIPS:
    """The interface of lpips.LPIPS."""

    def __init__(self, net: str, verbose: bool) -> None:
        assert (net, verbose) == ("alex", False)

    def to(self, device: torch.device) -> "FakeLPIPS":
        return self

    def __call__(self, in0: Tensor, in1: Tensor, normalize: bool) -> Tensor:
        assert normalize  # pictures in [0, 1]
        return (in0 - in1).square().mean((1, 2, 3), keepdim=True)


def test_inception_is_asked_as_torch_fidelity_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FakeInception
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    features = load_extractor("inception", load_autoencoder("pixels")).features(torch.full((2, 3, 16, 16), 0.5))
    assert features.shape == (2, 2048)
    assert set(features.unique().tolist()) == {128.0}


def test_lpips_is_asked_as_its_package_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLPIPS))
    extractor = load_extractor("lpips", load_autoencoder("pixels"))
    pictures = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.5)])
    assert extractor.pair_distances(pictures, torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0])).tolist() == [
        0.25,
        0.25,
        0,
    ]
    with pytest.raises(ValueError, match="--perceptual"):
        extractor.features(pictures)


@pytest.mark.parametrize(("name", "package"), [("inception", "torch_fidelity"), ("lpips", "lpips")])
def test_extractors_say_what_is_missing(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LatentPatchError, match=rf"need {package}.*latentpatch\[evaluate\]"):
        load_extractor(name, load_autoencoder("pixels"))


def test_features_are_read_but_never_unpickled(tmp_path: Path) -> None:
    known = draw(7, 4)
    np.save(tmp_path / "good.npy", known.numpy())
    save_file({"features": known.float()}, tmp_path / "good.safetensors")
    torch.testing.assert_close(read_features(tmp_path / "good.npy"), known)
    torch.testing.assert_close(read_features(tmp_path / "good.safetensors"), known.float().double())
    np.save(tmp_path / "pickled.npy", np.array([print], dtype=object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.ones((3, 2), dtype=np.int64))
    np.save(tmp_path / "nan.npy", np.full((3, 2), np.nan))
    save_file({"other": known}, tmp_path / "named.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("pickled.npy", "whole.npy", "nan.npy", "named.safetensors", "text.safetensors", "none.npy"):
        with pytest.raises(FileError, match=name):
            read_features(tmp_path / name)


# --- memorisation and seams ------------------------------------------------------------------------------


def test_recovery_finds_sources_and_measures_what_is_far(model: LatentPatch) -> None:
    latents = model.bank.latents.movedim(-1, 1).float()
    for side in (1, 3, 16):
        assert recovery_errors(model, latents, side).max() < 1e-5
        assert recovery_errors(model, latents, side, torch.arange(12)).min() > 1e-3
    shifted = latents + 0.25
    whole = recovery_errors(model, shifted, 16)
    plain = torch.stack([(picture - latents).square().mean((1, 2, 3)).min() for picture in shifted])
    torch.testing.assert_close(whole, plain)
    # Smaller blocks can only come nearer.
    assert bool((recovery_errors(model, shifted, 2) <= whole + 1e-6).all())
    # A mosaic of sources' blocks is recovered by blocks of that side, not by whole sources.
    index = torch.arange(64).remainder(12).view(1, 8, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)
    mosaic = model.bank.gather(index).float()
    assert recovery_errors(model, mosaic, 2)[0] < 1e-5
    assert recovery_errors(model, mosaic, 16)[0] > 1e-3
    with pytest.raises(ValueError, match="latents"):
        recovery_errors(model, latents[:, :, :4], 2)


def test_memorisation_tells_sources_from_others(model: LatentPatch, face_images: Tensor) -> None:
    unseen = model.autoencoder.encode(1 - face_images)
    found = memorisation(model, unseen, 16)
    assert found.counts == (12, 12)
    assert (found.sources, found.gap) == pytest.approx((0, 1), abs=1e-3)
    assert found.held_out > found.left_out > 0
    assert found.p_value < 0.05
    same = LatentPatch("pixels:4", components=8).fit(face_images[:6])
    alike = memorisation(same, same.autoencoder.encode(face_images[6:]), 16)
    assert alike.p_value > 0.05
    with pytest.raises(ValueError, match="2 sources"):
        memorisation(LatentPatch("pixels:4").fit(face_images[:1]), unseen, 16)


def test_seams_cost_what_neighbours_disagree_by(model: LatentPatch) -> None:
    whole = torch.full((1, 16, 16), 3)
    assert seam_energies(model.bank, whole)[0] == 0
    half = whole.clone()
    half[:, :, 8:] = 5
    keys = model.bank.keys.double()
    apart = (keys[3] - keys[5]).square().sum(-1)  # h x w
    spread = (keys - keys.mean(0)).square().sum(-1).mean()
    expected = apart[:, 7:9].sum() / 256 / spread
    assert seam_energies(model.bank, half)[0] == pytest.approx(float(expected))
    torch.testing.assert_close(seam_energies(model.bank, half), seam_energies(model.bank, half.clone()))
    given = half.clone()
    given[:, :, 8:] = -1
    assert seam_energies(model.bank, given)[0] == 0


# --- rows ------------------------------------------------------------------------------------------------


def test_rows_are_text() -> None:
    row = parse_row("big patches, few sources: raster patch_size=8 scales=null bank=16 decoding=unproject")
    assert row == Row("big patches, few sources", "raster", {"patch_size": 8, "scales": None}, "unproject", 16)
    assert parse_row("random-cells").name == "random-cells"
    assert parse_row("raster stride=2").name == "raster stride=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SAMPLER"),
        ("name: ", "SAMPLER"),
        ("painter", "'painter': one of resynthesis, diffusion, raster"),
        ("raster patch_size", "KEY=VALUE"),
        ("raster stride=1 stride=2", "every key once"),
        ("raster colour=red", "'colour' is not a setting of the sampler 'raster'; known: neighbours"),
        ("raster decoding=jpeg", "'jpeg'"),
        ("raster bank=0", "bank 0"),
        ("raster bank=many", "'many'"),
        ("sources stride=1", "takes no settings"),
    ],
)
def test_rows_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(text)


@dataclass(frozen=True)
class SweepSettings(Settings):
    windows: tuple[int, ...] = setting((16, 8), "sides")
    temperature: float = setting(1.0, "temperature")
    mode: str = setting("nearest", "way of choosing")


class Sweep(RandomCells):
    """Draw cells, with settings of several types."""

    name = "sweep"
    Settings = SweepSettings


def test_rows_work_for_any_sampler(model: LatentPatch, request: pytest.FixtureRequest) -> None:
    register(Sweep)
    request.addfinalizer(lambda: SAMPLERS.remove("sweep"))
    row = parse_row("sweep windows=16,11,9 temperature=0.5 mode=soft")
    assert row.settings_for(model) == SweepSettings((16, 11, 9), 0.5, "soft")
    hash(row.settings_for(model))
    assert row.identity(model)["settings"] == {"windows": [16, 11, 9], "temperature": 0.5, "mode": "soft"}
    assert "sweep (default)" in [each.name for each in standard_rows()]


def test_identity_is_what_decides_the_pictures(model: LatentPatch) -> None:
    default = parse_row("raster").identity(model)
    assert parse_row("the paper: raster patch_size=6 stride=2 bank=12").identity(model) == default
    assert parse_row("raster stride=1").identity(model) != default
    assert parse_row("raster bank=11").identity(model) != default
    for text, message in (("raster patch_size=0", "patch_size 0"), ("raster neighbors=4 bank=3", "neighbours 4")):
        with pytest.raises(ValueError, match=rf"row '{text}': {message}"):
            parse_row(text).identity(model)


def test_tables_are_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"One": ["raster", {"name": "b", "sampler": "raster", "settings": {"stride": 1}}]}))
    assert read_tables(path) == {"One": [Row("raster", "raster"), Row("b", "raster", {"stride": 1})]}
    path.write_text('["raster stride=2"]')
    assert list(read_tables(path)) == ["rows"]
    misshapen = [
        '{"name": "a"}',
        '{"name": "a", "sampler": "raster", "settings": 3}',
        '{"name": 3, "sampler": "raster"}',
    ]
    for text in ("", "3", "{}", '{"a": 1}', "[3]", '["painter"]', "[" * 9999, *(f"[{row}]" for row in misshapen)):
        path.write_text(text)
        with pytest.raises(FileError, match=r"rows\.json"):
            read_tables(path)
    with pytest.raises(FileError, match=r"none\.json"):
        read_tables(tmp_path / "none.json")


def test_the_repositorys_tables_are_rows_of_these_samplers() -> None:
    names = {path.stem: read_tables(path) for path in (ROOT / "benchmarks" / "tables").glob("*.json")}
    assert {"results", "autoencoders"} <= set(names)
    assert len(names["results"]) == 5


# --- the protocol ----------------------------------------------------------------------------------------

FEW = ["--samples", "8", "--seeds", "2", "--pairs", "30", "--resamples", "10", "-q"]


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twelve portraits as sources, eight others held out."""
    folder = tmp_path_factory.mktemp("portraits")
    paths = sorted(PORTRAITS.glob("*.jpg"))[:20]
    for name, part in (("sources", paths[:12]), ("held-out", paths[12:])):
        (folder / name).mkdir()
        for path in part:
            shutil.copy(path, folder / name)
    return folder / "sources", folder / "held-out"


@pytest.fixture(scope="module")
def evaluated(portraits: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluation of two rows, with the embedded autoencoder."""
    sources, held_out = map(str, portraits)
    output = tmp_path_factory.mktemp("evaluated") / "out"
    rows = ["--row", "raster", "--row", "copier: raster neighbors=1"]
    assert main(["evaluate", sources, "--held-out", held_out, *FEW, *rows, "-o", str(output)]) == 0
    return output


def test_an_evaluation_from_end_to_end(evaluated: Path) -> None:
    entries = [json.loads(line) for line in (evaluated / "evaluation.jsonl").read_text().splitlines()]
    rows = {entry["name"]: entry for entry in entries if "row" in entry}
    assert list(rows) == ["sources, verbatim", "raster", "copier"]
    for entry in rows.values():
        figures = entry["figures"]
        assert entry["counts"] == [8, 8]
        assert len(figures["distance"]["sets"]) == 2
        assert figures["distance"]["value"] == pytest.approx(np.mean(figures["distance"]["sets"]))
        for name, figure in figures.items():
            low, high = figure["interval"]
            assert low <= high, name
            assert low >= 0 or name == "kernel", name
            assert np.isfinite([figure["value"], low, high]).all(), name
        conditions = entry["conditions"]
        assert (conditions["features"], conditions["held_out"], conditions["sources"]) == ("latents", 8, 12)
        assert conditions["directions"] == 7  # one less than the held-out pictures
    assert rows["sources, verbatim"]["figures"]["largest_share"]["value"] == 1
    assert [rows[name]["copies"] for name in rows] == [True, False, True]
    assert rows["raster"]["figures"]["seams"]["value"] > 0
    (memory,) = [entry["memorisation"] for entry in entries if "memorisation" in entry]
    assert [found["side"] for found in memory] == [2, 16]
    assert all(found["sources"] < 1e-3 < found["left_out"] for found in memory)
    text = (evaluated / "evaluation.md").read_text()
    assert text.count("⚠ copies") == 2
    assert "`latents` is the generator's own latent space" in text
    assert "12 sources, 8 held-out pictures" in text
    assert "bootstrap" in text
    assert read_image(evaluated / rows["raster"]["sheets"]["first"]).shape[0] == 3
    assert set(rows["raster"]["sheets"]) == {"first", "worst"}
    assert set(rows["sources, verbatim"]["sheets"]) == {"first"}  # it has no seams
    figure = importlib.util.find_spec("matplotlib") is not None
    assert (evaluated / "frontier.png").exists() == figure


def test_rows_that_are_there_are_not_made_again(
    portraits: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    command = ["evaluate", str(portraits[0]), "--held-out", str(portraits[1]), "-o", str(output)]
    command += ["--autoencoder", "pixels:4", "--size", "64", *FEW]
    assert main([*command, "--row", "raster", "--row", "raster neighbors=1"]) == 0
    before = (output / "evaluation.jsonl").read_text()
    made: list[str] = []
    make = Evaluation._set

    def noting(self: Evaluation, row: Row, *rest: object) -> object:
        made.append(row.name)
        return make(self, row, *rest)

    monkeypatch.setattr(Evaluation, "_set", noting)
    renamed = ["--row", "another name: raster patch_size=6", "--row", "copier: raster neighbors=1"]
    assert main([*command, *renamed]) == 0
    assert (output / "evaluation.jsonl").read_text() == before
    assert "| another name |" in (output / "evaluation.md").read_text()
    assert made == []
    # Interrupted after a row: what is finished stays, and the same command goes on.
    more = ["--row", "random-cells", "--row", "random-patches"]

    def interrupted(self: Evaluation, row: Row, *rest: object) -> object:
        if row.name == "random-patches":
            raise KeyboardInterrupt
        return noting(self, row, *rest)

    monkeypatch.setattr(Evaluation, "_set", interrupted)
    assert main([*command, *more]) == 130
    assert (output / "evaluation.jsonl").read_text().startswith(before)
    monkeypatch.setattr(Evaluation, "_set", noting)
    assert main([*command, *more]) == 0
    assert made == ["random-cells"] * 2 + ["random-patches"] * 2
    lines = (output / "evaluation.jsonl").read_text().splitlines()
    assert len(lines) == before.count("\n") + 2
    assert not list(output.glob(".*"))
    # Under other conditions a row is another row.
    assert main([*command, "--samples", "9", "--row", "raster"]) == 0
    assert made[4:] == ["sources, verbatim"] * 2 + ["raster"] * 2


def test_figures_are_those_of_the_pictures(portraits: tuple[Path, Path], tmp_path: Path) -> None:
    sources, held_out = (sorted(folder.iterdir()) for folder in portraits)
    model = LatentPatch("pixels:16").fit(sources, size=64)
    extractor = Extractor("means", lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
    protocol = Protocol(samples=7, seeds=2, pairs=50, directions=0, resamples=0)
    evaluation = Evaluation(model, held_out, tmp_path, extractor, sources=sources, protocol=protocol)
    entry = evaluation.run(Row("patches", "random-patches", {"patch_size": 2}))
    made = [model.generate(7, seed=7 * s, sampler="random-patches", settings=row_settings(model)) for s in range(2)]
    reference = extractor.features(torch.stack([read_image(path, (64, 64)) for path in held_out]))
    features = [extractor.features(each.images) for each in made]
    figures = entry["figures"]
    assert figures["distance"]["sets"] == pytest.approx([frechet_distance(each, reference) for each in features])
    assert figures["kernel"]["sets"] == pytest.approx([kernel_distance(each, reference) for each in features])
    assert figures["recall"]["sets"] == pytest.approx([float(recalls(each, reference).mean()) for each in features])
    assert figures["distance"]["interval"] is None
    assert figures["largest_share"]["sets"] == pytest.approx(
        [np.mean([max(shares.values()) for shares in each.shares()]) for each in made]
    )
    assert figures["sources"]["sets"] == pytest.approx([np.mean([len(s) for s in each.shares()]) for each in made])
    pictures = torch.stack([read_image(path, (64, 64)) for path in sources])
    spread = extractor.pair_distances(pictures, *random_pairs(12, 50)).mean()
    pairs = random_pairs(7, 50)
    assert figures["diversity"]["sets"] == pytest.approx(
        [float(extractor.pair_distances(each.images, *pairs).mean() / spread) for each in made]
    )
    assert figures["nearest"]["value"] > 0.1
    assert 1 / 16 < figures["regions"]["value"] <= 0.25  # patches of four cells
    verbatim = evaluation.run(Row("verbatim", "sources"))
    assert verbatim["figures"]["nearest"]["value"] == 0
    assert verbatim["figures"]["regions"]["value"] == 1 / 16
    assert verbatim["figures"]["diversity"]["value"] == pytest.approx(1, abs=0.3)
    reconstructed = evaluation.run(Row("held-out", "held-out"))
    assert reconstructed["figures"]["distance"]["value"] == pytest.approx(0, abs=1e-6)  # raw pixels lose nothing
    assert reconstructed["figures"]["psnr"]["value"] > 60
    reduced = evaluation.run(Row("held-out, reduced", "held-out-reduced"))
    assert 10 < reduced["figures"]["psnr"]["value"] < 40
    few = evaluation.run(Row("few", "random-cells", bank=3))
    assert few["figures"]["sources"]["value"] <= 3
    assert not any(model.bank.attributes)  # as they were


def row_settings(model: LatentPatch) -> object:
    return Row("patches", "random-patches", {"patch_size": 2}).settings_for(model)


def test_the_copier_is_in_every_table() -> None:
    assert [row.sampler for row in with_copier([Row("a", "raster")])] == ["sources", "raster"]
    assert len(with_copier([Row("mine", "sources")])) == 1


def test_a_fitted_model_and_kept_features_will_do(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, held_out = map(str, portraits)
    model = LatentPatch("pixels:16").fit(sources, size=64)
    model.save(tmp_path / "model.safetensors")
    pictures = torch.stack([read_image(path, (64, 64)) for path in sorted(portraits[1].iterdir())])
    save_file(
        {"features": load_extractor("latents", model.autoencoder).features(pictures)}, tmp_path / "known.safetensors"
    )
    command = ["evaluate", str(tmp_path / "model.safetensors"), "--autoencoder", "pixels:16", *FEW, "--json"]
    found = []
    for given in (held_out, str(tmp_path / "known.safetensors")):
        output = tmp_path / Path(given).stem
        assert main([*command, "--held-out", given, "--row", "random-cells", "-o", str(output)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    values = [report["tables"]["Rows"][1]["figures"]["distance"]["value"] for report in found]
    assert values[0] == pytest.approx(values[1], rel=1e-4)  # float32 in the file
    assert not found[0]["conditions"]["originals"]
    assert [len(report["memorisation"]) for report in found] == [2, 0]
    known = ["--originals", sources, "--row", "random-cells", "-o", str(tmp_path / "pictures")]
    assert main([*command, "--held-out", held_out, *known]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conditions"]["originals"]
    assert report["tables"]["Rows"][1]["figures"]["distance"] == found[0]["tables"]["Rows"][1]["figures"]["distance"]
    known[1] = held_out
    assert main([*command, "--held-out", sources, *known]) == 1
    assert "which is not among them" in capsys.readouterr().err
    assert main([*command, "--held-out", given, "--row", "held-out", "-o", str(tmp_path / "refused")]) == 1
    assert "not their features alone" in capsys.readouterr().err


def test_without_matplotlib_the_plot_is_left_out_loudly(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sources, held_out = map(str, portraits)
    command = [
        "evaluate",
        sources,
        "--held-out",
        held_out,
        "--autoencoder",
        "pixels",
        "--size",
        "64",
        *FEW[:-1],
        "--json",
    ]
    assert main([*command, "--row", "random-cells", "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "frontier.png was not drawn" in captured.err
    assert json.loads(captured.out)["frontier"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--held-out", "nowhere"], 1, "nowhere: no such file or folder"),
        (["--held-out", "SOURCES"], 1, "held out, and a source as"),
        (["--held-out", "FEW"], 1, "held-out: at least 6 pictures are expected, got 3"),
        (["--held-out", "none.npy"], 1, "none.npy"),
        (["--held-out", "ABOVE"], 1, "its sheets would be held-out pictures"),
        (["--originals", "SOURCES"], 1, "only a fitted model needs them"),
        (["--samples", "5"], 1, "samples 5: at least 6"),
        (["--resamples", "1"], 1, "resamples 1"),
        (["--features", "fid"], 1, "features 'fid'"),
        (["--features", "BROKEN"], 1, "NaN"),
        (["--row", "painter"], 1, "row 'painter'"),
        (["--row", "raster patch_size=17"], 1, "patch_size 17"),
        (["--row", "raster patch_size=2 neighbors=13"], 1, "neighbours 13: at most 12"),
        (["--table", "none.json"], 1, "none.json"),
        ([], 2, "--held-out"),
    ],
)
def test_evaluate_checks_its_arguments(
    arguments: list[str],
    status: int,
    text: str,
    portraits: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few, broken = tmp_path / "few", tmp_path / "broken.py"
    few.mkdir()
    for path in sorted(portraits[1].iterdir())[:3]:
        shutil.copy(path, few)
    broken.write_text("def extractor(images):\n    return images.mean((2, 3)) * float('nan')\n")
    places = {"SOURCES": str(portraits[0]), "FEW": str(few), "ABOVE": str(tmp_path), "BROKEN": str(broken)}
    given = [places.get(word, word) for word in arguments]
    if given and "--held-out" not in given:
        given = ["--held-out", str(portraits[1]), *given]
    command = ["evaluate", str(portraits[0]), "--autoencoder", "pixels", "--size", "64"]
    try:
        found = main([*command, *given, "-o", str(tmp_path / "out")])
    except SystemExit as end:
        found = end.code
    assert found == status
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_log_is_named_and_kept(
    portraits: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "evaluation.jsonl"
    log.write_text('{"conditions": {}}\n{"condi')
    command = ["evaluate", str(portraits[0]), "--held-out", str(portraits[1]), "--autoencoder", "pixels"]
    assert main([*command, "--size", "64", "-o", str(tmp_path)]) == 1
    assert "evaluation.jsonl, line 2: damaged" in capsys.readouterr().err
    assert log.read_text() == '{"conditions": {}}\n{"condi'
