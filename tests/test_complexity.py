"""Costs of codecs: multiplications counted by hand, bytes near likelihoods, and a table without gaps."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from icm_helpers import complexity
from icm_helpers.codecs import classical, zoo
from icm_helpers.data import downloads
from icm_helpers.ledger import results


class Attention(nn.Module):
    """One head over n cells of d channels, by the kernel that a CPU takes."""

    def compress(self, x):
        functional.scaled_dot_product_attention(x, x, x)
        return {"strings": [[b"1234"]], "shape": (1, 1)}

    def decompress(self, strings, shape):
        functional.linear(torch.rand(5, 7), torch.rand(11, 7))


def test_multiplications_of_a_convolutional_codec_are_those_counted_by_hand():
    codec = zoo.load(weights=None)
    codec.update(force=True)
    n, m, k = 32, 48, 5 * 5
    # Each layer: taps x channels in x channels out, over the pixels for one output (of a transposed convolution: one input).
    gdn = n * n * (1 / 4 + 1 / 16 + 1 / 64)
    transform = k * (3 * n / 4 + n * n / 16 + n * n / 64 + n * m / 256) + gdn
    h_a = 9 * m * n / 256 + k * n * n * (1 / 1024 + 1 / 4096)
    h_s = k * (n * m / 4096 + m * 72 / 1024) + 9 * 72 * 96 / 256
    encode, decode, _ = complexity.macs(codec, torch.rand(1, 3, 128, 192))
    assert encode / (128 * 192) == transform + h_a + h_s  # the encoder needs what the decoder will know of the latent
    assert decode / (128 * 192) == transform + h_s


def test_attention_and_linear_layers_are_counted_too():
    encode, decode, _ = complexity.macs(Attention(), torch.rand(2, 3, 64, 8))
    assert encode == 2 * 3 * (64 * 64 * 8 + 64 * 64 * 8)
    assert decode == 5 * 7 * 11


@pytest.mark.parametrize("name", ["mean-scale-small", "tcm-tiny", "elic-small", "bmshj2018-hyperprior-vbr"])
def test_an_awakened_random_codec_writes_half_a_bit_a_symbol_as_its_likelihoods_promise(name):
    codec, x = zoo.load(name, weights=None), torch.rand(1, 3, 128, 128)
    complexity.awaken(codec, x)
    with torch.no_grad():
        likelihoods = codec(x)["likelihoods"]["y"]
    (y, _), promised = complexity.macs(codec, x)[2], -likelihoods.log2().sum().item()
    assert 0.2 < promised / likelihoods.numel() < 1
    assert 8 * len(y) == pytest.approx(promised, rel=0.05, abs=128)


def test_a_classical_codec_has_a_rate_and_a_quality_but_no_weights():
    x = torch.rand(3, 64, 64)
    row = complexity.measure(classical.Png(), x, {"noise": x}, repeats=1)
    assert set(row) == {"seconds", "ratio", "crop", "kodak", "pictures"}
    assert row["kodak"]["bpp"] == row["crop"]["bpp"] > 24


def test_every_codec_of_the_zoo_has_a_row_in_the_committed_table():
    assert {row["codec"] for row in complexity.read().values()} >= {c.name for c in zoo.CODECS.values() if c.network}


def test_weights_and_multiplications_counted_again_are_those_of_the_committed_table():
    codec, x = zoo.load("tcm-tiny", weights=None), torch.rand(1, 3, complexity.SIDE, complexity.SIDE)
    complexity.awaken(codec, x)
    encode, decode, _ = complexity.macs(codec, x)
    row = complexity.read()["tcm-tiny"]
    assert row["parameters"] == sum(p.numel() for p in codec.parameters())
    assert row["macs"] == pytest.approx(
        {"encode": encode / x[0, 0].numel(), "decode": decode / x[0, 0].numel()}, rel=1e-5
    )


def test_a_table_that_lacks_a_codec_is_refused_by_its_name(tmp_path):
    rows = complexity.read()
    del rows["tcm large"]
    path = tmp_path / "kodak.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(results.LedgerError, match="lacks tcm large: measure with"):
        complexity.read(path)


def test_a_measurement_that_goes_on_measures_only_what_is_missing(tmp_path, monkeypatch):
    rows, path = complexity.read(), tmp_path / "kodak.json"
    del rows["jpeg 30"]
    path.write_text(json.dumps(rows))
    monkeypatch.setattr(complexity, "kodak", lambda _: {complexity.CROP: torch.rand(3, 256, 320)})
    threads = torch.get_num_threads()
    assert [key for key, there in complexity.listed(path).items() if not there] == ["jpeg 30"]
    assert complexity.report(out=path) == 1 and torch.get_num_threads() == threads
    again = complexity.read(path)
    assert again["jpeg 30"]["pictures"] == [complexity.CROP]
    assert {key: row for key, row in again.items() if key != "jpeg 30"} == rows
    with pytest.raises(ValueError, match="no row is called 'jpeg 31': there are mean-scale-small start-coco-mini, "):
        complexity.report(["jpeg 31"], out=path)


def test_every_quoted_curve_names_its_source_and_rises():
    curves = json.loads(complexity.PUBLISHED.read_text())
    for name, curve in curves.items():
        assert curve["source"], name
        assert curve["bpp"] == sorted(curve["bpp"]) and curve["psnr"] == sorted(curve["psnr"]), name
        assert len(curve["bpp"]) == len(curve["psnr"])


def test_weights_of_two_lambdas_make_two_rows(tmp_path, monkeypatch):
    keys: list[str] = []
    monkeypatch.setattr(complexity, "kodak", lambda _: {})
    monkeypatch.setattr(complexity, "_add", lambda entry, *_: keys.append(entry.key))
    for name in ("n64-l0.05.pth.tar", "n64-l0.013.pth.tar"):
        complexity.report(codec="tcm", weights=tmp_path / name)
    assert keys == ["tcm n64-l0.05", "tcm n64-l0.013"]


def test_a_folder_without_kodak_is_an_error_that_says_how_to_get_it(tmp_path):
    with pytest.raises(downloads.DataError, match="fetch kodak"):
        complexity.kodak(tmp_path)


def test_measuring_leaves_no_fingerprint_behind_that_later_weights_would_belie():
    codec = zoo.load()
    complexity.measure(codec, torch.rand(3, 64, 64), {}, repeats=1)
    assert not hasattr(codec, "known_fingerprint")
