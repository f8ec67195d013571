"""Reading textures from coded pictures: the probe finds what is there, and guesses where nothing is left."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icm_helpers import probe
from icm_helpers.data import datasets, scenes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return datasets.load("scenes", "val", size=96, limit=24, root=tmp_path_factory.mktemp("scenes"))


def test_a_pattern_is_known_of_horses_and_balloons_that_hide_behind_no_colour(pictures):
    found = [item for items in probe.patterned(pictures).values() for item in items]
    assert {item["category_id"] for item in found} == set(scenes.PATTERNED) and {i["pattern"] for i in found} == {
        True,
        False,
    }
    others = [a for a in pictures.ground_truth()["annotations"] if a["category_id"] not in scenes.PATTERNED]
    assert others and all("pattern" not in a for a in others)


def test_objects_are_cut_out_where_they_are(pictures):
    number, items = next(iter(probe.patterned(pictures).items()))
    objects = probe.Objects()
    mask = pictures[pictures.ids.index(number)].object_mask
    objects.add(3, mask.expand(3, -1, -1), items)
    assert objects.image == [3] * len(items) and objects.views[0].shape == (3, 32, 32)
    assert objects.views[0][:, 12:20, 12:20].mean() > 0.5


def test_the_area_under_the_curve_follows_its_definition_with_weights():
    rng = np.random.default_rng(0)
    score, truth, weights = rng.normal(size=12).round(1), rng.random(12) < 0.5, rng.integers(0, 4, (5, 12))
    for w, value in zip(weights, probe.auc(score, truth, weights), strict=True):
        s, t = np.repeat(score, w), np.repeat(truth, w)
        pairs = [(a > b) + (a == b) / 2 for a in s[t] for b in s[~t]]
        assert value == pytest.approx(np.mean(pairs))


def stripes(n: int, seed: int, visible: bool) -> probe.Objects:
    objects, rng = probe.Objects(), np.random.default_rng(seed)
    objects.pattern = (rng.random(n) < 0.3).tolist()
    objects.kind, objects.image = rng.integers(0, 2, n).tolist(), list(range(n))
    for pattern in objects.pattern:
        view = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(int(rng.integers(1 << 30))))
        view[:, :, 10:14] += float(pattern and visible)
        objects.views.append(view / 2)
    return objects


@pytest.mark.parametrize(("visible", "low", "high"), [(True, 0.95, 1.0), (False, 0.3, 0.7)])
def test_a_probe_reads_a_visible_pattern_and_guesses_an_invisible_one(visible, low, high, monkeypatch):
    monkeypatch.setattr(probe, "_STEPS", 25)
    lessons, exam = stripes(200, 0, visible), stripes(100, 1, visible)
    score = probe.scores([probe.learn(lessons, 0)], exam)
    assert low <= probe.auc(score, np.array(exam.pattern), np.ones(100)) <= high


def test_a_codec_is_judged_by_what_its_bytes_show(pictures, monkeypatch):
    monkeypatch.setattr(probe, "_STEPS", 2)
    monkeypatch.setattr(probe, "_PROBES", 1)
    coder = SimpleNamespace(encode=lambda x: bytes(100), decode=lambda data: torch.zeros(3, 96, 96))
    nothing = SimpleNamespace(
        detect=lambda images: [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}]
    )
    monkeypatch.setattr(
        probe, "coded", lambda codec, data: ((s, codec.encode(s.image), codec.decode(b"")) for s in data)
    )
    result, bootstrap = probe.evaluate(coder, pictures, pictures, {"blind": nothing}, progress=False)
    assert result["texture_auc"] == 0.5 and result["shape_ap"] == {"blind": 0.0}
    assert result["bpp"] == 800 / 96**2 and len(bootstrap["texture_auc"]) == len(bootstrap["bpp"]) == 200


def test_too_few_objects_are_an_error(pictures, monkeypatch):
    monkeypatch.setattr(probe, "coded", lambda codec, data: ((s, b"", s.image) for s in data))
    with pytest.raises(ValueError, match="too few for a probe"):
        probe.evaluate(None, pictures, datasets.load("scenes", "val", size=96, limit=1), {}, progress=False)
