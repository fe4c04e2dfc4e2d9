"""The feature store: computed once, kept whole through kills and between processes, and never larger than allowed."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from hyperpelt.errors import UserError
from hyperpelt.vision import FeatureStore, content_hash, load_image_encoder
from hyperpelt.vision.base import ImageEncoder
from hyperpelt.vision.shards import Shard
from hyperpelt.vision.stores import clear, list_stores


class Means(ImageEncoder):
    """A real, cheap encoder: the mean colour of each quarter. Counts what it is asked for."""

    name, grid, dim, fingerprint = "means", (2, 2), 3, "ab" * 32

    def __init__(self, slow=0.0):
        self.seen, self.slow = 0, slow

    def _encode(self, images):
        self.seen += len(images)
        time.sleep(self.slow)
        pixels = [torch.frombuffer(bytearray(i.resize((2, 2)).tobytes()), dtype=torch.uint8) for i in images]
        return torch.stack(pixels).view(len(images), 4, 3).float() / 255


def picture(number):
    return Image.new("RGB", (6, 5), (number % 256, number // 256, 7))


def encoded(number):
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


ONE = 4 * 3 * 4  # bytes of one picture's features


def test_what_was_encoded_once_is_read_ever_after(tmp_path):
    encoder = Means()
    store = FeatureStore(tmp_path, encoder)
    first = store.features([picture(1), picture(2), picture(1)])
    assert (encoder.seen, store.misses, store.hits) == (2, 2, 1)
    assert torch.equal(first, encoder.encode([picture(1), picture(2), picture(1)]))
    again = FeatureStore(tmp_path, encoder.spec)
    keys = [content_hash(picture(n)) for n in (2, 1)]
    assert torch.equal(again.read(keys), first[[1, 0]])
    assert torch.equal(again.features([picture(2), picture(1)]), first[[1, 0]])
    assert again.hit_rate == 1.0
    with pytest.raises(UserError, match=r"lacks 1 of 2 images.*hyperpelt features build"):
        again.read([keys[0], content_hash(picture(9))])
    with pytest.raises(UserError, match="needs its image encoder"):
        again.build([picture(3)])


def test_files_and_bytes_share_features_and_are_not_decoded_twice(tmp_path):
    encoder, path = Means(), tmp_path / "a.png"
    path.write_bytes(encoded(5))
    store = FeatureStore(tmp_path / "store", encoder)
    made = store.features([path, encoded(5)])
    assert encoder.seen == 1
    assert torch.equal(made[0], made[1])
    broken = [path]
    assert torch.equal(store.features(broken, load=None)[0], made[0]), "reading needs no picture"


def test_building_writes_shards_shows_progress_and_skips_what_is_there(tmp_path):
    encoder, told = Means(), []
    store = FeatureStore(tmp_path, encoder, shard_bytes=10 * ONE)
    store.features([picture(3)])
    images = [picture(n % 40) for n in range(60)]
    built = store.build(images, batch_size=4, progress=lambda b: told.append((b.seen, b.encoded)))
    assert (built.seen, built.encoded, built.known) == (60, 39, 21)
    assert told[-1] == (60, 39)
    assert len(told) == 60
    assert len(store) == 40
    assert len(store.shards()) == 5
    assert torch.equal(store.features(images), Means().encode(images))
    (about,) = list_stores(tmp_path)
    assert (about["encoder"], about["images"], about["shards"]) == ("means", 40, 5)
    assert about["bytes"] == store.num_bytes() > 40 * ONE


def test_half_precision_halves_the_bytes_and_rounds_alike_at_once_and_later(tmp_path):
    store = FeatureStore(tmp_path, Means(), dtype="float16")
    now, later = (store.features([picture(77)]) for _ in range(2))
    assert torch.equal(now, later)
    assert torch.equal(now, Means().encode([picture(77)]).half().float())
    assert FeatureStore(tmp_path, Means(), dtype="float32").folder != store.folder


def test_the_oldest_shards_make_room_and_the_newest_stay(tmp_path):
    encoder = Means()
    store = FeatureStore(tmp_path, encoder, shard_bytes=4 * ONE, max_bytes=1500)
    store.build([picture(n) for n in range(24)], batch_size=4)
    assert store.num_bytes() <= 1500
    kept = [n for n in range(24) if content_hash(picture(n)) in store]
    assert kept
    assert kept == list(range(kept[0], 24)), "the first to come are the first to go"
    tiny = FeatureStore(tmp_path / "tiny", encoder, max_bytes=1)
    assert torch.equal(tiny.features([picture(1)]), encoder.encode([picture(1)]))
    both = tiny.features([picture(1), picture(2)])  # writing the second removes the first while both are asked for
    assert torch.equal(both, encoder.encode([picture(1), picture(2)]))
    assert len(tiny.shards()) == 1
    (about,) = list_stores(tmp_path / "tiny")
    assert about["max_bytes"] == 1


def test_an_upper_size_stays_with_the_store_until_it_is_told_another(tmp_path):
    FeatureStore(tmp_path, Means(), max_bytes=1500)
    later = FeatureStore(tmp_path, Means(), shard_bytes=4 * ONE)
    later.build([picture(n) for n in range(24)], batch_size=4)
    assert later.num_bytes() <= 1500 == later.max_bytes
    assert "of at most 1.5 kB in " in later.told()
    assert FeatureStore(tmp_path, Means(), max_bytes=0).max_bytes is None
    free = FeatureStore(tmp_path, Means(), shard_bytes=4 * ONE)
    free.build([picture(n) for n in range(24)], batch_size=4)
    assert len(free) == 24
    clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_store_that_holds_removes_what_nobody_asked_for_and_refuses_what_is_too_large(tmp_path):
    FeatureStore(tmp_path, Means(), shard_bytes=4 * ONE).build([picture(n) for n in range(8)], batch_size=4)
    old, other = (content_hash(picture(n)) for n in (0, 4))
    shard = FeatureStore(tmp_path, Means()).num_bytes() // 2
    store = FeatureStore(tmp_path, Means(), shard_bytes=4 * ONE, max_bytes=int(2.5 * shard), hold=True)
    assert old in store
    store.build([picture(n) for n in range(8, 12)], batch_size=4)
    assert old in store, "the oldest, but it was asked for"
    assert other not in store
    assert store.removed == 1
    with pytest.raises(UserError, match=r"need \S+ kB of features or more, .* may hold .*: raise features_max_size"):
        store.build([picture(n) for n in range(12, 16)], batch_size=4)
    assert store.num_bytes() <= store.max_bytes
    assert old in FeatureStore(tmp_path, Means())


def test_another_reader_sees_shards_come_and_go(tmp_path):
    writer, reader = FeatureStore(tmp_path, Means()), FeatureStore(tmp_path, Means().spec)
    writer.features([picture(1)])
    key = content_hash(picture(1))
    assert key not in reader
    assert torch.equal(reader.read([key]), Means().encode([picture(1)]))
    copy = pickle.loads(pickle.dumps(reader))  # as a loader's worker gets it
    assert torch.equal(copy.read([key]), reader.read([key]))
    writer.shards()[0].unlink()
    assert torch.equal(reader.read([key]), copy.read([key])), "what was mapped stays readable"
    reader.refresh()
    with pytest.raises(UserError, match="lacks 1 of 1"):
        reader.read([key])


def damage(path, how):
    content = path.read_bytes()
    path.unlink()  # it may be mapped
    flipped = bytearray(content)
    flipped[-5] ^= 1
    path.write_bytes({"cut": content[:50], "flipped": bytes(flipped), "emptied": b""}[how])


@pytest.mark.parametrize("how", ["cut", "flipped", "emptied"])
def test_a_damaged_shard_is_left_out_and_its_images_are_encoded_again(tmp_path, how, caplog):
    store = FeatureStore(tmp_path, Means())
    store.features([picture(1)])
    store.features([picture(2)])
    whole, path = store.features([picture(1), picture(2)]), store.shards()[0]
    damage(path, how)
    keys = [content_hash(picture(n)) for n in (1, 2)]
    reader = FeatureStore(tmp_path, Means().spec)
    with pytest.raises(UserError, match=rf"lacks 1 of 2 images.*{path.name} is damaged.*features build"):
        reader.read(keys)
    assert f"{path} is damaged" in caplog.text
    assert "encoded again" in caplog.text
    assert keys[0] not in reader
    encoder = Means()
    again = FeatureStore(tmp_path, encoder)
    assert torch.equal(again.features([picture(1), picture(2)]), whole)
    assert encoder.seen == 1
    assert not path.exists()
    assert torch.equal(FeatureStore(tmp_path, Means().spec).read(keys), whole)
    assert torch.equal(pickle.loads(pickle.dumps(again)).read(keys), whole)


def test_building_encodes_again_what_a_damaged_shard_held(tmp_path):
    FeatureStore(tmp_path, Means(), shard_bytes=2 * ONE).build([picture(n) for n in range(6)], batch_size=2)
    damage(FeatureStore(tmp_path, Means()).shards()[1], "flipped")
    built = FeatureStore(tmp_path, Means()).build([picture(n) for n in range(6)])
    assert (built.encoded, built.known) == (2, 4)


def test_shards_of_earlier_versions_are_read(tmp_path):
    from safetensors.torch import load_file, save_file

    store = FeatureStore(tmp_path, Means())
    whole = store.features([picture(1)])
    save_file(load_file(store.shards()[0]), store.shards()[0])
    assert torch.equal(FeatureStore(tmp_path, Means().spec).read([content_hash(picture(1))]), whole)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": 3}'])
def test_a_damaged_description_is_shown_cleared_and_written_again(tmp_path, content, caplog):
    store = FeatureStore(tmp_path, Means())
    whole = store.features([picture(1)])
    about = store.folder / "store.json"
    kept = about.read_text()
    about.write_text(content)
    (listed,) = list_stores(tmp_path)
    assert "store.json" in listed["damage"]
    assert listed["fingerprint"] == ("ab" * 32)[:16]
    assert torch.equal(FeatureStore(tmp_path, Means().spec).read([content_hash(picture(1))]), whole)
    assert "is written again" in caplog.text
    assert about.read_text() == kept
    about.write_text(content)
    assert len(clear(tmp_path, encoder="abab")) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"max_bytes": "many"}'])
def test_a_damaged_limit_is_named(tmp_path, content):
    store = FeatureStore(tmp_path, Means(), max_bytes=1500)
    (store.folder / "limit.json").write_text(content)
    with pytest.raises(UserError, match=r"limit\.json .*set features_max_size"):
        FeatureStore(tmp_path, Means())
    assert FeatureStore(tmp_path, Means(), max_bytes=1500).max_bytes == 1500


def test_a_store_with_a_damaged_shard_is_shown_and_cleared(tmp_path):
    store = FeatureStore(tmp_path, Means())
    store.features([picture(1)])
    path = store.shards()[0]
    path.write_bytes(path.read_bytes()[:50])
    listed = list_stores(tmp_path)[0]
    assert (listed["images"], listed["bytes"]) == (None, 50)
    assert f"{path.name} is damaged" in listed["damage"]
    assert clear(tmp_path)[0]["encoder"] == "means"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_cleared_beside_its_writer_is_a_store_again(tmp_path):
    store = FeatureStore(tmp_path, Means())
    store.features([picture(1)])
    clear(tmp_path)
    store.features([picture(2)])
    assert [listed["images"] for listed in list_stores(tmp_path)] == [1]


def test_a_copy_in_another_process_says_what_is_gone(tmp_path):
    store = FeatureStore(tmp_path, Means())
    store.features([picture(1)])
    copied = pickle.loads(pickle.dumps(store))
    clear(tmp_path)
    with pytest.raises(UserError, match="lacks 1 of 1 images"):
        copied.read([content_hash(picture(1))])


def test_clearing_takes_one_encoder_or_all(tmp_path):
    other = load_image_encoder("mini-vision", grid=1)
    for encoder in (Means(), other):
        FeatureStore(tmp_path, encoder).features([picture(1)])
    with pytest.raises(UserError, match="Did you mean 'mini-vision'"):
        clear(tmp_path, encoder="mini-visio")
    assert [gone["encoder"] for gone in clear(tmp_path, encoder="means")] == ["means"]
    assert [left["encoder"] for left in list_stores(tmp_path)] == ["mini-vision"]
    assert clear(tmp_path)[0]["fingerprint"] == other.fingerprint
    assert list_stores(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_other_features_is_never_read_as_these(tmp_path):
    first = FeatureStore(tmp_path, Means())
    first.features([picture(1)])
    other = FeatureStore(tmp_path, replace(first.spec, fingerprint="cd" * 32))
    assert json.loads((other.folder / "store.json").read_text())["fingerprint"] == "cd" * 32
    with pytest.raises(UserError, match="lacks 1 of 1 images"):
        other.read([content_hash(picture(1))])


# Several processes, and a kill

WORKER = """
import sys; sys.path.insert(0, {tests!r})
from test_store import FeatureStore, Means, ONE, picture
store = FeatureStore(sys.argv[1], Means(slow=float(sys.argv[4])), shard_bytes=8 * ONE)
print("begun", flush=True)
built = store.build([picture(n) for n in range(int(sys.argv[2]), int(sys.argv[3]))], batch_size=4)
print(built.encoded)
"""


def start(folder, first, last, slow=0.0):
    code = WORKER.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", code, str(folder), str(first), str(last), str(slow)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_fill_one_store_together(tmp_path):
    workers = [start(tmp_path, 0, 60), start(tmp_path, 30, 90)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    store = FeatureStore(tmp_path, Means().spec)
    assert len(store) == 90
    images = [picture(n) for n in range(90)]
    assert torch.equal(store.features(images), Means().encode(images))
    kept = sum(len(Shard(path).keys) for path in store.shards())
    assert kept == 90, "no image is kept twice"


def test_a_kill_in_the_middle_leaves_whole_shards_and_building_goes_on(tmp_path):
    worker = start(tmp_path, 0, 400, slow=0.2)
    folder = FeatureStore(tmp_path, Means().spec).folder
    deadline = time.monotonic() + 60
    while len(list(folder.glob("0*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    worker.wait(30)
    (folder / ".tmp-1.safetensors").write_bytes(b"half a shard")  # as if killed while writing
    store = FeatureStore(tmp_path, Means(), shard_bytes=50 * ONE)
    before = len(store)
    assert 24 <= before < 400
    images = [picture(n) for n in range(400)]
    built = store.build(images)
    assert built.encoded == 400 - before, "only what was lost is encoded again"
    assert torch.equal(store.features(images), Means().encode(images))
    assert not list(folder.glob(".tmp-*"))
