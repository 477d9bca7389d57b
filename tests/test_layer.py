"""LatentPatch as a layer of other people's networks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.multiprocessing as mp
from helpers.errors import refuses
from helpers.spawned import Drawn, network_around, step, train_distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from latentpatch import LatentPatch, RasterSettings, load_autoencoder

SETTINGS = RasterSettings(patch_size=2)


@pytest.fixture
def layer(face_images: Tensor) -> LatentPatch:
    """A model with weights of an embedded autoencoder's shape, on a 4x4 grid."""
    torch.manual_seed(0)
    return LatentPatch(load_autoencoder("embedded", pretrained=False), settings=SETTINGS).fit(face_images[:6])


def noise_for(model: LatentPatch, count: int = 3) -> Tensor:
    return torch.rand(count, model.steps, generator=torch.Generator().manual_seed(0))


def test_autocast_around_it_changes_nothing(layer):
    noise = noise_for(layer)
    with torch.autocast("cpu", torch.bfloat16):
        inside = layer(noise)
    assert torch.equal(inside, layer(noise))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_converted_networks_run_and_pick_the_same_sources(layer, dtype):
    network = nn.Sequential(layer, nn.Conv2d(3, 4, 3))
    noise = noise_for(layer)
    index, images = layer.search(noise), layer(noise)
    network.to(dtype)
    assert network(noise).dtype == dtype
    assert torch.equal(layer.search(noise), index)
    assert (layer(noise) - images).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_coarse_noise_is_refused(model, dtype):
    with refuses("noise", TypeError):
        model(noise_for(model).to(dtype))


@pytest.mark.usefixtures("float32")
def test_state_dict_of_a_network_that_contains_it(tmp_path, model):
    network = nn.Sequential(nn.Identity(), model, nn.Conv2d(3, 2, 1))
    torch.save(network.state_dict(), tmp_path / "network.pt")
    fresh = nn.Sequential(nn.Identity(), LatentPatch("pixels:4"), nn.Conv2d(3, 2, 1))
    assert str(fresh.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))) == (
        "<All keys matched successfully>"
    )
    assert torch.equal(fresh(noise_for(model)), network(noise_for(model)))
    copied = copy.deepcopy(network)
    model.remove("3")
    assert copied[1].bank.ids == fresh[1].bank.ids
    assert torch.equal(fresh(noise_for(fresh[1])), copied(noise_for(fresh[1])))


def test_state_that_does_not_fit_is_named(model):
    state = model.state_dict()
    keys = state.pop("bank.keys")
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "bank.keys"'):
        LatentPatch("pixels:4").load_state_dict(state | {"bank._extra_state": LatentPatch().bank.get_extra_state()})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "bank.more"'):
        LatentPatch("pixels:4").load_state_dict({**state, "bank.keys": keys, "bank.more": keys})


# --- meta device ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pixels:4", "embedded"])
def test_meta_construction(monkeypatch, face_images, name):
    fitted = LatentPatch(name, settings=SETTINGS).fit(face_images[:6])
    monkeypatch.setattr("latentpatch.autoencoders.embedded.read_tensors", lambda *_: pytest.fail("weights were read"))
    with torch.device("meta"):
        network = nn.Sequential(LatentPatch(name), nn.Identity())
    assert all(tensor.is_meta for tensor in [*network.parameters(), *network.buffers(), network[0].bank.keys])
    with pytest.raises(RuntimeError, match=r"on the meta device takes load_state_dict\(assign=True\)"):
        network[0].pca.load_state_dict(fitted.pca.state_dict())
    network.load_state_dict(nn.Sequential(fitted, nn.Identity()).state_dict(), assign=True)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers(), network[0].bank.keys])
    noise = noise_for(fitted)
    assert torch.equal(network.to("cpu")(noise), fitted(noise))
    assert network[0].autoencoder.fingerprint() == fitted.autoencoder.fingerprint()


def test_memory_reserved_before_loading(model):
    with torch.device("meta"):
        fresh = LatentPatch("pixels:4")
    fresh.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(fresh(noise_for(model)), model(noise_for(model)))


# --- several processes ---------------------------------------------------------------------------------


@pytest.mark.slow(6)
def test_spawned_workers_draw_the_same(model):
    loader = DataLoader(Drawn(model), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader)), model.generate(4).images)


def test_data_parallel_without_gpus_is_the_module(model):
    assert torch.equal(nn.DataParallel(model)(noise_for(model)), model(noise_for(model)))


@pytest.mark.usefixtures("float32")
@pytest.mark.slow(4)
def test_distributed_training_is_that_of_one_process(tmp_path, layer):
    noise = noise_for(layer, 4)
    mp.spawn(train_distributed, (tmp_path, layer, noise), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = network_around(layer)
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    step(alone, noise)
    after = alone.state_dict()
    assert not torch.equal(before["0.autoencoder.decoder.0.weight"], after["0.autoencoder.decoder.0.weight"])
    for name, value in after.items():
        assert torch.equal(first[name], second[name]), name
        change = (value.double() - before[name].double()).norm()
        assert (first[name].double() - value.double()).norm() <= 0.01 * change, name
