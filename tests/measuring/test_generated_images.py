import numpy as np
import pytest

from lightning_bpd.datamodules import LabelledDigits
from lightning_bpd.interfaces import InputError
from lightning_bpd.measuring import generated_images
from lightning_bpd.measuring.generated_images import ImageJudge, nearest_training_images, train_classifier


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def judge(cache):
    with pytest.MonkeyPatch.context() as patch:
        train = generated_images.train_classifier
        patch.setattr(generated_images, "train_classifier", lambda *given: train(*given, steps=150))
        return ImageJudge.of(LabelledDigits(cache=str(cache)))


def test_real_images_are_near_and_noise_is_far(judge):
    assert judge.accuracy > 0.9
    data = LabelledDigits()
    validation, test = data.part("validation"), data.part("test")
    same = judge.measure(validation.images, validation.labels)
    assert same.frechet_distance == pytest.approx(0, abs=1e-6)
    assert same.class_accuracy == judge.accuracy
    real = judge.measure(test.images, test.labels)
    noise = np.random.default_rng(1).integers(0, 256, test.images.shape, dtype=np.uint8)
    far = judge.measure(noise, test.labels)
    assert real.class_accuracy > 0.85
    assert far.class_accuracy < 0.35
    assert real.images == 200
    assert far.frechet_distance > 10 * real.frechet_distance
    one_class = judge.measure(test.images[test.labels == 3], test.labels[test.labels == 3])
    assert one_class.frechet_distance > 3 * real.frechet_distance


def test_the_classifier_is_trained_once(judge, cache, monkeypatch):
    monkeypatch.setattr(generated_images, "train_classifier", lambda *_: pytest.fail("trained again"))
    again = ImageJudge.of(LabelledDigits(cache=str(cache)))
    assert again.accuracy == judge.accuracy
    assert (again.real.mean == judge.real.mean).all()


def test_a_damaged_cache_is_told(judge, cache):
    (path,) = cache.rglob("classifier.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(InputError, match="delete this folder to have it made again"):
        ImageJudge.of(LabelledDigits(cache=str(cache)))
    path.write_bytes(content)


def test_a_seed_gives_the_same_classifier():
    data = LabelledDigits()
    train = data.part("train")
    one, other = (train_classifier(train.images, train.labels, 10, 5, steps=3).state_dict() for _ in range(2))
    assert all((one[name] == other[name]).all() for name in one)


def test_the_nearest_training_images_are_shown_below():
    train = LabelledDigits().part("train").images
    changed = train[[5, 9]].copy()
    changed[1, 0, 0] = 255 - changed[1, 0, 0]
    picture, index, distance = nearest_training_images(changed, train)
    assert index.tolist() == [5, 9]
    assert distance[0] == 0
    assert distance[1] > 0
    assert picture.shape == (2 * 68 - 4, 2 * 68 - 4, 1)


def test_no_image(judge):
    with pytest.raises(InputError, match="no image to judge"):
        judge.measure(np.zeros((0, 8, 8, 1), np.uint8), [])
