import pickle
import tarfile

import numpy as np
import pytest
import torch
from idx_content import IMAGES, LABELS, idx
from PIL import Image

from lightning_bpd.codecs.image_tokenizers import TrainedTokenizer
from lightning_bpd.codecs.labelled_images import ImageLevels
from lightning_bpd.datamodules.labelled_images import LabelledDigits, LabelledImages
from lightning_bpd.interfaces import InputError
from lightning_bpd.models.image_tokenizer import ImageTokenizer, TokenizerShape
from lightning_bpd.saved.finished_model import CHECKPOINT_KEY
from lightning_bpd.training.scoring import check_codec

CLASSES = ("ant", "bee", "cat")


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(CLASSES):
        for part, count in (("train", 6), ("val", 2)):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels(1000 * (part == "val") + 10 * label + number)).save(
                    place / f"{number}.png"
                )
    return tmp_path / "images"


def ready(path, stage="fit", **settings):
    data = LabelledImages(str(path), **{"height": 8, "width": 8, "batch_size": 4, **settings})
    data.prepare_data()
    data.setup(stage)
    return data


def all_batches(loader):
    return [torch.cat(each) for each in zip(*loader, strict=True)]


def test_batches_hold_labels_and_tokens(folder):
    data = ready(folder)
    assert data.codec == ImageLevels(8, 8, 3, 256, CLASSES)
    assert (data.codec.grid, data.codec.vocabulary, data.max_length) == ((8, 8, 3), 256, 192)
    labels, tokens, index = all_batches(data.train_dataloader())
    assert sorted(index.tolist()) == list(range(18))
    assert (labels == index // 6).all()
    assert labels.dtype == tokens.dtype == index.dtype == torch.int64
    images = data.references("train")[index]
    assert torch.equal(tokens, torch.from_numpy(images).flatten(1).long())
    assert (np.stack(data.codec.decode(tokens.tolist())) == images).all()
    assert data.sources("validation").tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(data.target_counts(), tokens.flatten().bincount(minlength=256))


def test_an_archive_gives_what_its_folder_gives(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(folder, "photographs")
    for one, other in zip(
        all_batches(ready(folder).train_dataloader()),
        all_batches(ready(tmp_path / "a.tar.gz").train_dataloader()),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_the_order_is_known_and_resumes(folder):
    loader = ready(folder).train_dataloader()
    first = [batch.index.tolist() for batch in loader]
    assert [batch.index.tolist() for batch in ready(folder).train_dataloader()] == first
    loader.batch_sampler.start_at(2)
    assert [batch.index.tolist() for batch in loader] == first[2:]
    loader.batch_sampler.set_epoch(1)
    assert [batch.index.tolist() for batch in loader] != first


def test_flips_are_the_mirror_images(folder):
    data = ready(folder, variants="flips")
    assert (len(data.train_images), len(data.validation_images)) == (36, 6)
    assert len(all_batches(data.train_dataloader())[0]) == 36
    tokens = np.asarray(data.train_images.tokens).reshape(2, 18, 8, 8, 3)
    assert (tokens[1] == tokens[0][:, :, ::-1]).all()


def test_ten_crops_are_the_centre_the_corners_and_their_mirror_images(folder):
    data = ready(folder, variants="ten_crops", height=6, width=6, crop_margin=2)
    whole = np.stack([pixels(10 * label + number) for label in range(3) for number in range(6)])
    tokens = np.asarray(data.train_images.tokens).reshape(10, 18, 6, 6, 3)
    corners = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
    for crop, (top, left) in enumerate(corners):
        expected = whole[:, top : top + 6, left : left + 6]
        assert (tokens[crop] == expected).all()
        assert (tokens[5 + crop] == expected[:, :, ::-1]).all()
    assert (data.references("train") == whole[:, 1:7, 1:7]).all()
    assert data.validation_images.tokens.shape == (6, 108)


def test_codes_of_a_tokenizer_are_encoded_once(folder, tmp_path, monkeypatch):
    torch.manual_seed(1)
    shape = TokenizerShape("fsq", width=8, halvings=1, levels=(4, 3))
    tokenizer = TrainedTokenizer(ImageTokenizer(shape, 3), 8, 8)
    tokenizer.save(tmp_path / "tokenizer", {})
    data = ready(folder, variants="flips", tokenizer=str(tmp_path / "tokenizer"))
    assert (data.codec.grid, data.codec.vocabulary, data.codec.classes) == ((4, 4), 12, CLASSES)
    images = np.asarray(data.references("train"))
    expected = np.concatenate([tokenizer.encode(images), tokenizer.encode(images[:, :, ::-1])])
    assert (np.asarray(data.train_images.tokens) == expected).all()
    assert data.train_images.tokens.dtype == np.uint8
    with pytest.raises(InputError, match=r"is for images of 8 x 8 x 3, and the data has images of 4 x 8 x 3"):
        ready(folder, height=4, tokenizer=str(tmp_path / "tokenizer"))
    monkeypatch.setattr(TrainedTokenizer, "encode", lambda *_: pytest.fail("encoded again"))
    again = ready(folder, variants="flips", tokenizer=str(tmp_path / "tokenizer"))
    assert (again.train_images.tokens == data.train_images.tokens).all()


def test_a_checkpoint_of_other_tokens_is_refused(folder, tmp_path):
    torch.manual_seed(1)
    shape = TokenizerShape("fsq", width=8, halvings=1, levels=(4, 3))
    for seed in (1, 2):
        torch.manual_seed(seed)
        TrainedTokenizer(ImageTokenizer(shape, 3), 8, 8).save(tmp_path / f"tokenizer{seed}", {})
    one, other = (ready(folder, tokenizer=str(tmp_path / f"tokenizer{seed}")) for seed in (1, 2))
    checkpoint = {CHECKPOINT_KEY: one.codec.describe()}
    check_codec(checkpoint, one)
    with pytest.raises(
        InputError, match=r"another image tokenizer .*give the data the model's own tokenizer"
    ):
        check_codec(checkpoint, other)
    with pytest.raises(InputError, match="another image size"):
        check_codec(checkpoint, ready(folder))


def test_idx_files_with_fewer_pixels_and_levels(tmp_path):
    images = IMAGES.repeat(4, 0)
    images[:, 0, 0] = np.arange(28)  # no two images are equal
    for part, count in (("train", 28), ("t10k", 3)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images[:count]))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS.repeat(4)[:count]))
    data = ready(tmp_path, None, height=3, width=3, channels=1, levels=17, validation_share=0.3)
    assert data.codec.classes == ("0", "1", "2", "3")
    assert len(data.train_images) + len(data.validation_images) == 28
    assert data.test_images.tokens.shape == (3, 9)
    assert data.test_images.tokens.dtype == np.uint8
    assert data.test_images.labels.tolist() == [3, 3, 3]
    assert data.test_images.tokens.max() <= 16


def test_a_second_start_computes_nothing(folder, monkeypatch):
    expected = ready(folder).train_images.tokens
    monkeypatch.setattr(ImageLevels, "encode", lambda *_: pytest.fail("encoded again"))
    assert (ready(folder).train_images.tokens == expected).all()


def test_other_levels_are_encoded_again(folder):
    ready(folder)
    assert ready(folder, levels=4).train_images.tokens.max() == 3


def test_a_damaged_cache_is_told(folder):
    ready(folder)
    for path in (folder / ".encoded").rglob("tokens"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="delete this folder"):
        ready(folder)


def test_workers_map_the_file(folder):
    data = ready(folder)
    assert len(pickle.dumps(data.train_dataloader().collate_fn)) < 2000


def test_images_outside_class_folders(folder):
    Image.fromarray(pixels(1)).save(folder / "train" / "stray.png")
    with pytest.raises(InputError, match=r"train/stray\.png lies in no class folder"):
        ready(folder)


def test_a_class_without_training_images(folder):
    (folder / "val" / "dog").mkdir()
    Image.fromarray(pixels(1)).save(folder / "val" / "dog" / "1.png")
    with pytest.raises(InputError, match="the class 'dog', which has no training image"):
        ready(folder)


def test_arrays_have_no_classes(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([pixels(n) for n in range(50)]))
    with pytest.raises(InputError, match="an array file has no classes"):
        ready(tmp_path / "a.npy")


def test_images_of_another_size(folder):
    with pytest.raises(InputError, match=r"no train image can be used: 18 left out .* smaller than 16 x 16"):
        ready(folder, height=16, width=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": "ten_crops"}, "set crop_margin"),
        ({"crop_margin": -1}, "crop_margin is -1"),
        ({"levels": 1}, "levels is 1"),
        ({"channels": 2}, "channels is 2"),
        ({"device": "nowhere"}, "device is 'nowhere'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        LabelledImages(str(tmp_path), **settings)


def test_digits():
    data = LabelledDigits()
    data.setup()
    assert (data.codec.grid, data.codec.vocabulary, len(data.codec.classes)) == ((8, 8), 17, 10)
    sizes = [len(part) for part in (data.train_images, data.validation_images, data.test_images)]
    assert sizes == [1400, 197, 200]
    labels, tokens, _ = all_batches(data.train_dataloader())
    assert (tokens.shape, tokens.max(), labels.max()) == ((1400, 64), 16, 9)
    assert set(labels.tolist()) == set(range(10))
