"""Real data sets: what is read, and what is refused before training starts."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.sdgan.data import DataError, SiamesePairs, open_data
from examples.sdgan.data.coco import coco
from examples.sdgan.data.cub import cub
from examples.sdgan.data.files import ImageFiles
from examples.sdgan.data.pairs import pad
from examples.sdgan.data.pickles import read_plain_pickle
from examples.sdgan.data.toy import birds
from examples.sdgan.data.vocabulary import Vocabulary, tokenize
from examples.sdgan.presets import preset

NAMES = {"train": ["001.A/a1", "001.A/a2", "002.B/b1"], "test": ["003.C/c1"]}


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def cub_root(tmp_path: Path) -> Path:
    """CUB's own layout, with two captions an image."""
    for split, names in NAMES.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "filenames.txt").write_text("\n".join(names) + "\n")
        for name in names:
            picture(tmp_path / "images" / f"{name}.jpg")
            text = tmp_path / "text" / f"{name}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"a bird called {name[-2:]}\n\nit is red .\n")
    return tmp_path


@pytest.fixture
def attngan_root(tmp_path: Path) -> Path:
    """AttnGAN's layout: pictures under CUB_200_2011, captions and names pickled."""
    words = {0: "<end>", 1: "a", 2: "red", 3: "bird", 4: "blue"}
    captions = {"train": [[1, 2, 3], [1, 4, 3]] * 3, "test": [[2, 3], [4, 3]]}
    for split, names in NAMES.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "filenames.pickle").write_bytes(pickle.dumps(names, protocol=2))
        for name in names:
            picture(tmp_path / "CUB_200_2011" / "images" / f"{name}.jpg")
    index = {word: i for i, word in words.items()}
    content = [captions["train"], captions["test"], words, index]
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(content, protocol=2))
    return tmp_path


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    for kind, ids in (("train", (7, 9)), ("val", (11,))):
        notes = [
            {"image_id": i, "id": 10 * i + k, "caption": f"A dog\nno. {i}, {k}!"} for i in ids for k in range(2)
        ]
        images = [{"id": i, "file_name": f"{i}.jpg"} for i in ids]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{kind}2014.json").write_text(
            json.dumps({"images": images, "annotations": notes})
        )
        for i in ids:
            picture(tmp_path / f"{kind}2014" / f"{i}.jpg")
    return tmp_path


def test_cub(cub_root: Path) -> None:
    data = cub(cub_root, "train", 32)
    assert data.captions[1] == ["a bird called a2", "it is red ."]
    assert data.classes.tolist() == [0, 0, 1]
    assert len(cub(cub_root, "test", 32)) == 1
    images = data.images.load([2, 0], 32, None)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert (images.double().mean((0, 2, 3)) - torch.tensor([200.0, 30, 30])).abs().max() < 4


def test_cub_bounding_boxes_crop(cub_root: Path) -> None:
    pixels = np.zeros((100, 200, 3), dtype=np.uint8)
    pixels[:, 100:] = (0, 255, 0)
    Image.fromarray(pixels).save(cub_root / "images" / "001.A" / "a1.jpg", quality=95)
    names = [name for split in NAMES.values() for name in split]
    (cub_root / "images.txt").write_text("".join(f"{i} {name}.jpg\n" for i, name in enumerate(names, 1)))
    boxes = "1 140.0 30.0 40.0 40.0\n" + "".join(f"{i} 0.0 0.0 40.0 40.0\n" for i in range(2, len(names) + 1))
    (cub_root / "bounding_boxes.txt").write_text(boxes)
    image = cub(cub_root, "train", 32).images.load([0], 32, None)[0].double()
    assert image[1].min() > 200  # 1.5 times the box lies in the green half
    assert image[0].max() < 60


def test_attngans_layout_and_pickles(attngan_root: Path) -> None:
    data = cub(attngan_root, "train", 32, captions_per_image=2)
    assert data.captions == [["a red bird", "a blue bird"]] * 3
    assert cub(attngan_root, "test", 32, captions_per_image=2).captions == [["red bird", "blue bird"]]


def test_coco(coco_root: Path) -> None:
    data = coco(coco_root, "train", 32)
    assert data.captions == [["A dog no. 7, 0!", "A dog no. 7, 1!"], ["A dog no. 9, 0!", "A dog no. 9, 1!"]]
    assert data.classes is None
    assert len(coco(coco_root, "test", 32)) == 1


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))

    def __init__(self, target: Path) -> None:
        self.target = str(target)


def test_a_pickle_never_runs_code(attngan_root: Path) -> None:
    struck = attngan_root / "struck"
    (attngan_root / "captions.pickle").write_bytes(pickle.dumps([Bomb(struck)]))
    with pytest.raises(DataError, match=r"captions.pickle: refused, for the pickle holds more than lists"):
        cub(attngan_root, "train", 32, captions_per_image=2)
    assert not struck.exists()


def test_plain_pickles_of_every_protocol(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, "x", None, True], 3: ["t", b"b"]}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / "p"
        # bytes need a callable before protocol 3, which is refused like any other
        plain = value if protocol >= 3 else {"a": value["a"]}
        path.write_bytes(pickle.dumps(plain, protocol))
        assert read_plain_pickle(path) == plain


def break_cub(root: Path, how: str) -> None:
    text, image = root / "text" / "001.A" / "a2.txt", root / "images" / "001.A" / "a2.jpg"
    if how == "no captions":
        text.unlink()
    elif how == "empty captions":
        text.write_text(" \n . \n")
    elif how == "no image":
        image.unlink()
    elif how == "not an image":
        image.write_text("hello")
    elif how == "truncated image":
        image.write_bytes(image.read_bytes()[:-200])
    elif how == "zero bytes":
        image.write_bytes(b"")
    elif how == "outside":
        (root / "train" / "filenames.txt").write_text("../../etc/passwd\n001.A/a1\n")
    elif how == "no names":
        (root / "train" / "filenames.txt").write_text("\n")
    elif how == "one image":
        (root / "train" / "filenames.txt").write_text("001.A/a1\n")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no captions", r"a2.txt: an image without captions"),
        ("empty captions", r"a2.txt: holds no caption"),
        ("no image", r"a2.jpg: captions without an image"),
        ("not an image", r"a2.jpg: not a readable image"),
        ("truncated image", r"a2.jpg: not a readable image"),
        ("zero bytes", r"a2.jpg: not a readable image"),
        ("outside", r"names '../../etc/passwd.jpg', which lies outside"),
        ("no names", r"filenames.txt: names no image"),
        ("one image", r"at least 2 training images"),
    ],
)
def test_broken_cub_is_named_before_training(cub_root: Path, how: str, message: str) -> None:
    break_cub(cub_root, how)
    config = preset("cub")
    object.__setattr__(config, "root", cub_root)
    object.__setattr__(config, "size", 32)
    with pytest.raises(DataError, match=message):
        open_data(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), r"not COCO captions.*KeyError"),
        (lambda c: c["annotations"].clear(), r"an image without captions: 7.jpg"),
        (lambda c: c["images"].pop(), r"a caption of image 9, which the file does not list"),
        (lambda c: c["images"][0].update(file_name="8.jpg"), r"8.jpg: captions without an image"),
        (lambda c: c["images"][0].update(file_name="../secret.jpg"), r"'../secret.jpg', which lies outside"),
        (lambda c: c.update(images=3), r"not COCO captions"),
        (lambda c: c["annotations"][0].update(caption=None), r"the caption of image 7 is None, not text"),
    ],
)
def test_broken_coco_is_named_before_training(coco_root: Path, change, message: str) -> None:
    path = coco_root / "annotations" / "captions_train2014.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        coco(coco_root, "train", 32)


def test_captions_without_images_are_named_when_there_are_no_split_files(cub_root: Path) -> None:
    for split in ("train", "test"):
        (cub_root / split / "filenames.txt").unlink()
    (cub_root / "images" / "001.A" / "a2.jpg").rename(cub_root / "images" / "001.A" / "a2.JPG")
    assert len(cub(cub_root, "train", 32)) == 4
    assert len(cub(cub_root, "test", 32)) == 0
    (cub_root / "text" / "001.A" / "orphan.txt").write_text("a bird\n")
    with pytest.raises(DataError, match=r"orphan.txt: captions without an image"):
        cub(cub_root, "train", 32)


def test_pickled_captions_need_the_names_they_go_by(attngan_root: Path) -> None:
    (attngan_root / "test" / "filenames.pickle").unlink()
    assert len(cub(attngan_root, "test", 32, captions_per_image=2)) == 0
    (attngan_root / "train" / "filenames.pickle").unlink()
    with pytest.raises(DataError, match=r"train: filenames.txt or .pickle is missing"):
        cub(attngan_root, "train", 32, captions_per_image=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([None, [], {}], r"must hold \[train captions"),
        ([[[1]] * 4, [], {1: "a"}, {}], r"4 train captions do not divide evenly between 3 images"),
        ([[[1]] * 3, [], {2: "a"}, {}], r"holds 1, which is no word"),
        ([[[1]] * 3, [], {1: "."}, {}], r"caption 0 is empty"),
    ],
)
def test_broken_pickled_captions_are_named(attngan_root: Path, content: object, message: str) -> None:
    (attngan_root / "captions.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        cub(attngan_root, "train", 32, captions_per_image=2)


def test_a_file_that_is_no_pickle_is_not_called_dangerous(tmp_path: Path) -> None:
    for content in (b"version https://git-lfs", b"", pickle.dumps(list(range(1000)))[:-5]):
        (tmp_path / "p").write_bytes(content)
        with pytest.raises(DataError, match="not a pickle, or a broken one"):
            read_plain_pickle(tmp_path / "p")


def load_one(image: Image.Image, path: Path, **options) -> torch.Tensor:
    image.save(path, **options)
    return ImageFiles([path], 32).load([0], 32, None)[0].double()


def test_images_of_every_mode(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    grey = load_one(Image.fromarray(ramp.astype(np.uint16)), tmp_path / "16.png")
    assert abs(grey.mean() - 127) < 5
    assert grey.std() > 50
    clear = load_one(Image.new("RGBA", (40, 40), (255, 0, 0, 0)), tmp_path / "clear.png")
    assert clear.min() == 255
    cmyk = load_one(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), tmp_path / "cmyk.jpg", quality=95)
    assert cmyk[0].mean() > 200 > 60 > cmyk[1].mean()
    palette = load_one(Image.new("RGB", (40, 40), (0, 0, 255)).convert("P"), tmp_path / "p.png")
    assert palette[2].mean() > 200
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves = Image.new("RGB", (40, 40))
    halves.paste((255, 255, 255), (0, 0, 40, 20))
    turned = load_one(halves, tmp_path / "turned.jpg", exif=exif, quality=95)
    assert turned[:, 20:].mean() > 200 > 60 > turned[:, :12].mean()
    with pytest.raises(DataError, match=r"f.tiff: not a readable image .*floating-point pixels"):
        load_one(Image.fromarray(ramp.astype(np.float32)), tmp_path / "f.tiff")


def test_links_to_pictures_elsewhere_are_welcome(cub_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("disk") / "a1.jpg"
    image = cub_root / "images" / "001.A" / "a1.jpg"
    image.rename(elsewhere)
    image.symlink_to(elsewhere)
    assert len(cub(cub_root, "train", 32)) == 3


def test_missing_folders_are_named(tmp_path: Path) -> None:
    for read in (cub, coco):
        with pytest.raises(DataError, match="nowhere: no such folder"):
            read(tmp_path / "nowhere", "train", 32)
    with pytest.raises(DataError, match="the folder of images is missing; looked for images"):
        cub(tmp_path, "train", 32)
    with pytest.raises(DataError, match=r"holds no captions_train"):
        coco(tmp_path, "train", 32)


def test_pairs_are_of_one_image_and_of_two_half_and_half() -> None:
    data = birds("train", 16, 40)
    vocabulary = Vocabulary.of(c for cs in data.captions for c in cs)
    pairs = SiamesePairs(data, vocabulary, 30, 8, 16, seed=1)
    for step in range(30):
        batch = pairs[step]
        first, second = batch.indices.chunk(2)
        assert batch.same.tolist() == [True] * 4 + [False] * 4
        assert torch.equal(first == second, batch.same)
        for b, (i, tokens) in enumerate(zip(batch.indices.tolist(), batch.tokens, strict=True)):
            mine = [vocabulary.encode(caption) for caption in data.captions[i]]
            assert [t for t in tokens.tolist() if t] in mine
            if b < 4 and len({tuple(m) for m in mine}) == len(mine):
                assert not torch.equal(tokens, batch.tokens[b + 8])  # two captions, not one twice
        assert torch.equal(batch.classes, data.classes[batch.indices])


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    data = birds("train", 16, 40)
    vocabulary = Vocabulary.of(c for cs in data.captions for c in cs)
    a, b = (SiamesePairs(data, vocabulary, 30, 8, 16, seed=1) for _ in range(2))
    a[0], a[1]
    assert all(torch.equal(*map(torch.as_tensor, pair)) for pair in zip(a[5], b[5], strict=True))
    assert torch.equal(torch.from_numpy(a[5].on_host), a[5].tokens)  # what stays on the host says the same
    assert not torch.equal(a[5].indices, a[6].indices)
    assert not torch.equal(a[5].indices, SiamesePairs(data, vocabulary, 30, 8, 16, seed=2)[5].indices)


def test_long_captions_keep_their_order() -> None:
    caption = list(range(2, 40))
    kept = pad([caption], 18, torch.Generator().manual_seed(0))[0].tolist()
    assert len(kept) == 18
    assert kept == sorted(kept)
    assert kept != caption[:18]
    assert pad([[5, 6]], 4)[0].tolist() == [5, 6, 0, 0]
    assert tokenize("A Bird, it's RED!") == ["a", "bird", "it", "s", "red"]


def test_real_cub(real_data: Path) -> None:
    data = cub(real_data / "cub", "test", 32)
    assert len(data) == 709
    assert all(len(captions) == 10 for captions in data.captions)
    assert len(data.classes.unique()) == 12
    images = data.images.load([0, 700], 32, torch.Generator().manual_seed(0))
    assert images.double().std() > 20


def test_real_attngan_captions(real_data: Path) -> None:
    content = read_plain_pickle(real_data / "cub_attngan_meta" / "captions.pickle")
    assert [len(part) for part in content] == [88550, 29330, 5450, 5450]
    names = read_plain_pickle(real_data / "cub_attngan_meta" / "train" / "filenames.pickle")
    assert len(names) == 8855
    text = " ".join(content[2][i] for i in content[0][0])
    assert "bird" in text


def test_real_coco(real_data: Path) -> None:
    train, test = (coco(real_data / "coco", split, 32) for split in ("train", "test"))
    assert len(train) + len(test) == 51
    assert all(len(captions) == 5 for captions in train.captions)


def test_an_image_in_both_splits_is_refused(cub_root: Path) -> None:
    (cub_root / "test" / "filenames.txt").write_text(NAMES["train"][1] + "\n")
    config = dataclasses.replace(preset("cub"), root=cub_root, size=32)
    with pytest.raises(DataError, match=rf"{NAMES['train'][1]}.jpg: is in the training and in the test split"):
        open_data(config)


def test_coco_of_two_years(coco_root: Path) -> None:
    notes = coco_root / "annotations"
    (notes / "captions_train2013.json").write_text("not read")
    assert len(coco(coco_root, "train", 32)) == 2
    (notes / "captions_train2014.json").unlink()
    with pytest.raises(DataError, match=r"different years \(\['2013'\] and \['2014'\]\), whose images overlap"):
        coco(coco_root, "train", 32)
