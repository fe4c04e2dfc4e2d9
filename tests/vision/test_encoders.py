"""Image encoders: real vision towers of every promised family, built small and saved to folders, and `mini-vision`."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from PIL import Image
from tiny_families import make_tiny

from hyperpelt import TunedModel
from hyperpelt.errors import UserError
from hyperpelt.vision import VisualSpec, load_image_encoder
from hyperpelt_tasks.tabletop.render import draw

SIDE, PATCH = 32, 8
TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
VIT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True}
EXACT = {"size": {"height": SIDE, "width": SIDE}}
# name -> (model class, configuration, image processor and its settings, own grid, width)
TOWERS = {
    "clip": ("CLIPVisionModel", transformers.CLIPVisionConfig(**VIT), "CLIPImageProcessor", CROPPED, 4, 32),
    "clip of two towers": (
        "CLIPModel",
        transformers.CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=16),
        "CLIPImageProcessor", CROPPED, 4, 32,
    ),
    "siglip": ("SiglipVisionModel", transformers.SiglipVisionConfig(**VIT), "SiglipImageProcessor", EXACT, 4, 32),
    "siglip of two towers": (
        "SiglipModel",
        transformers.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VIT),
        "SiglipImageProcessor", EXACT, 4, 32,
    ),
    "dinov2": ("Dinov2Model", transformers.Dinov2Config(**VIT, mlp_ratio=2), "BitImageProcessor", CROPPED, 4, 32),
    "dinov2 with registers": (
        "Dinov2WithRegistersModel",
        transformers.Dinov2WithRegistersConfig(**VIT, mlp_ratio=2, num_register_tokens=3),
        "BitImageProcessor", CROPPED, 4, 32,
    ),
    "vit": ("ViTModel", transformers.ViTConfig(**VIT), "ViTImageProcessor", EXACT, 4, 32),
    "convnext": (
        "ConvNextModel",
        transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4),
        "ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, 48, 16,
    ),
    "resnet": (
        "ResNetModel",
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", downsample_in_first_stage=False
        ),
        "ConvNextImageProcessor", {"size": {"shortest_edge": 384}}, 48, 16,
    ),
}  # fmt: skip


def save(folder, name, *, seed=0):
    kind, config, processor, settings, grid, dim = TOWERS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    about = {"image_processor_type": processor, "do_resize": True, "do_normalize": True, "do_rescale": True, **settings}
    about |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return model, grid, dim


def pictures(count=3, size=(48, 40)):
    generator = torch.Generator().manual_seed(3)
    made = torch.randint(0, 256, (count, *size[::-1], 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in made]


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_gives_its_own_hidden_states_cell_by_cell(tmp_path, name):
    model, grid, dim = save(tmp_path, name)
    encoder = load_image_encoder(tmp_path)
    assert (encoder.grid, encoder.dim) == ((grid, grid), dim)
    features = encoder.encode(pictures(), batch_size=2)
    assert features.shape == (3, grid * grid, dim)
    assert features.dtype == torch.float32
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    tower = getattr(model, "vision_model", model)
    with torch.no_grad():
        states = tower(pixel_values=pixels).last_hidden_state
    cells = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states[:, states.shape[1] - grid * grid :]
    torch.testing.assert_close(features, cells, atol=1e-5, rtol=1e-4)
    assert all(not p.requires_grad for p in encoder.tower.parameters())
    # A picture's features are its own, whatever stands beside it.
    torch.testing.assert_close(encoder.encode(pictures()[1:2])[0], features[1], atol=1e-5, rtol=1e-4)


def test_a_coarser_grid_is_the_mean_of_the_cells_it_covers(tmp_path):
    save(tmp_path, "vit")
    whole, coarse = (load_image_encoder(tmp_path, grid=grid).encode(pictures()) for grid in (None, (2, 4)))
    by_hand = whole.view(3, 2, 2, 4, 32).mean(2).view(3, 8, 32)
    torch.testing.assert_close(coarse, by_hand)
    with pytest.raises(UserError, match=r"has 4 x 4 cells: expected a grid of at most that many, got 5 x 5"):
        load_image_encoder(tmp_path, grid=5)


@pytest.mark.parametrize("name", ["clip of two towers", "siglip", "vit", "resnet"])
def test_pooled_features_are_the_trained_pool_or_the_mean_of_cells(tmp_path, name):
    model, _, dim = save(tmp_path, name)
    encoder = load_image_encoder(tmp_path, pooled=True)
    features = encoder.encode(pictures())
    assert features.shape == (3, 1, dim)
    if name in ("vit", "resnet"):
        expected = load_image_encoder(tmp_path).encode(pictures()).mean(1)
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = getattr(model, "vision_model", model)(pixel_values=pixels).pooler_output
    torch.testing.assert_close(features[:, 0], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="pooled features have one cell"):
        load_image_encoder(tmp_path, pooled=True, grid=3)


def test_the_fingerprint_tells_apart_all_that_decides_the_features(tmp_path):
    def folder(name, seed=0):
        (tmp_path / name).mkdir()
        save(tmp_path / name, "clip", seed=seed)
        return tmp_path / name

    first, copy, other = folder("a"), folder("b"), folder("c", seed=1)
    prints = {
        "itself": load_image_encoder(first).fingerprint,
        "weights": load_image_encoder(other).fingerprint,
        "grid": load_image_encoder(first, grid=2).fingerprint,
        "pooled": load_image_encoder(first, pooled=True).fingerprint,
        "bf16": load_image_encoder(first, dtype=torch.bfloat16).fingerprint,
    }
    assert load_image_encoder(copy).fingerprint == prints["itself"], "where it stands is no part of an encoder"
    about = copy / "preprocessor_config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "image_mean": [0.5, 0.5, 0.5]}))
    prints["preprocessing"] = load_image_encoder(copy).fingerprint
    assert len(set(prints.values())) == len(prints)


def test_bfloat16_runs_under_autocast_and_gives_float32(tmp_path):
    save(tmp_path, "siglip")
    exact, half = (load_image_encoder(tmp_path, dtype=dtype).encode(pictures()) for dtype in (None, torch.bfloat16))
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0.1)
    with pytest.raises(UserError, match="float32 or bfloat16"):
        load_image_encoder(tmp_path, dtype=torch.float16)


def test_a_missing_tower_processor_or_weight_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded: expected 'mini-vision', 'efficientnet-lite0', a folder"):
        load_image_encoder(tmp_path / "nowhere")
    model, _, _ = save(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="has no image processor"):
        load_image_encoder(tmp_path)
    state = {name: t for name, t in model.state_dict().items() if "layernorm.weight" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"lacks 1 weights, such as 'layernorm\.weight'"):
        load_image_encoder(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cannot be loaded.*model\.safetensors is damaged"):
        load_image_encoder(tmp_path)


# mini-vision


def test_a_linear_map_reads_shapes_from_mini_vision():
    """A linear map reads the stroke that stands in a cell, wherever in it and in whatever colour."""
    encoder = load_image_encoder("mini-vision", grid=2)
    pictures, golds = [], []
    generator = torch.Generator().manual_seed(0)
    for number in range(160):
        canvas = Image.new("RGB", (96, 96), (200, 190, 160))
        kind, give = number % 4, int(torch.randint(0, 12, (1,), generator=generator))
        box = (8 + give, 10 + give, 28 + give, 30 + give)
        colour = tuple(torch.randint(0, 90, (3,), generator=generator).tolist())
        stroke = {0: (0, 0, 20, 6), 1: (0, 0, 6, 20), 2: (0, 0, 20, 20), 3: (6, 6, 14, 14)}[kind]
        canvas.paste(colour, (box[0] + stroke[0], box[1] + stroke[1], box[0] + stroke[2], box[1] + stroke[3]))
        pictures.append(canvas)
        golds.append(kind)
    features, gold = encoder.encode(pictures)[:, 0].double(), torch.tensor(golds)
    x = torch.cat([(features - features[:80].mean(0)) / (features[:80].std(0) + 1e-6), torch.ones(160, 1)], 1).double()
    one_hot = torch.nn.functional.one_hot(gold, 4).double()
    weights = x[:80].T @ torch.linalg.solve(x[:80] @ x[:80].T + 3 * torch.eye(80, dtype=torch.float64), one_hot[:80])
    assert ((x[80:] @ weights).argmax(1) == gold[80:]).double().mean() >= 0.95


def test_mini_vision_is_the_same_everywhere_and_needs_no_training():
    first, second = (load_image_encoder("mini-vision", grid=3) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    # Another fingerprint or other features: raise VERSION, so that no store and no model mixes the two.
    assert first.fingerprint[:16] == "7d63f9cae054d47b"
    picture = draw("cloth:3+large:red:ball:0:0+small:blue:cube:1:1")
    sums = load_image_encoder("mini-vision", grid=1).encode([picture])[0, 0].view(26, 13).sum(1)[::5]
    expected = torch.tensor([0.1216, 8.1960, -49.5667, -42.3900, -41.8357, -5.2567])
    torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(first.encode(pictures()), second.encode(pictures(), batch_size=1))
    assert load_image_encoder("mini-vision", grid=4).fingerprint != first.fingerprint
    assert load_image_encoder("mini-vision", pooled=True).encode(pictures()).shape[1] == 1
    assert load_image_encoder("mini-vision").grid == (7, 7)
    grey = Image.new("L", (20, 30), 90)
    assert first.encode([grey]).isfinite().all()


def test_a_model_over_a_bfloat16_encoder_sees_again(tmp_path):
    save(tmp_path, "clip")
    encoder = load_image_encoder(tmp_path, grid=2, dtype=torch.bfloat16)
    model = TunedModel.build(make_tiny("bart"), method={"name": "memvp"}, tasks=["a"], image_encoder=encoder)
    again = model.image_encoder()
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.encode(pictures()), encoder.encode(pictures()))
    assert VisualSpec.from_dict(model.visual.to_dict()) == encoder.spec
