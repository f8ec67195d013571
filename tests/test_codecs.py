"""The zoo: every codec by name, weights in and out of files, and errors that help."""

import pickle
import subprocess
import sys
import urllib.error
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from compressai.models import MeanScaleHyperprior
from compressai.zoo import image, image_models, image_vbr
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from icm_helpers import cli, files, plots, run
from icm_helpers.codecs import container, networks, zoo
from icm_helpers.ledger.recipe import Accuracy, Classical, Pictures, Recipe, Trained, Training
from icm_helpers.objectives import MSE

NETWORKS = [codec for codec in zoo.CODECS.values() if codec.network]


@pytest.mark.parametrize("codec", NETWORKS, ids=lambda codec: codec.name)
def test_every_name_constructs_in_eval_mode_and_trainable(codec):
    network = zoo.load(codec.name, min(codec.sizes) if codec.sizes else None, weights=None)
    assert network.name == codec.name and not network.training
    assert all(p.requires_grad for p in network.parameters())


def test_the_table_of_compressai_models_is_its_own():
    """Names, classes, qualities and sizes; of the variable-rate models CompressAI leaves out what their files ask for."""
    assert set(image_models) < set(zoo.CODECS)
    for name, sizes in image.cfgs.items():
        assert zoo.CODECS[name].sizes == sizes
    for name, sizes in image_vbr.cfgs.items():
        assert tuple(zoo.CODECS[name].options[letter] for letter in "NM") == sizes
    classes = image.model_architectures | image_vbr.model_architectures
    for name in classes.keys() & zoo.CODECS.keys():
        assert zoo.CODECS[name].make == f"compressai.models:{classes[name].__name__}"
        assert resolve_name(zoo.CODECS[name].make) is classes[name]


def test_names_are_listed_without_torch():
    script = "import sys; from icm_helpers.codecs import zoo; print(len(zoo.CODECS), {'torch', 'compressai'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == f"{len(zoo.CODECS)} set()\n"


class Halved:
    """A file codec from outside: every second pixel, as 8 bits."""

    def __init__(self, quality):
        self.quality = quality

    def encode(self, image):
        return bytes(image.shape[1:]) + (image * 255).round().byte()[..., ::2].numpy().tobytes()

    def decode(self, data):
        shape = (3, data[0], -(-data[1] // 2))
        small = torch.frombuffer(bytearray(data[2:]), dtype=torch.uint8).view(shape).float() / 255
        return small.repeat_interleave(2, dim=2)[..., : data[1]]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(zoo, "CODECS", dict(zoo.CODECS))
    zoo.register(zoo.Codec("halved", Halved, setting="quality", label="half a picture", suffix="hlv"))
    zoo.register(zoo.Codec("outside", partial(MeanScaleHyperprior, 8, 12), network=True))


def test_codecs_from_outside_code_pictures_and_are_saved_like_those_of_the_book(registered, tmp_path):
    x = torch.rand(3, 10, 13)
    codec = zoo.load("halved", 3)
    assert codec.quality == 3 and container.decode(codec, container.encode(codec, x)).shape == x.shape
    network = zoo.load("outside", weights=None)
    networks.save(network, tmp_path / "mine.safetensors")
    again = zoo.load("outside", tmp_path / "mine.safetensors")
    assert torch.equal(*(container.decode(c, container.encode(c, x)) for c in (network, again)))
    with pytest.raises(FileNotFoundError, match="outside has no weights here"):
        zoo.load("outside")
    with pytest.raises(ValueError, match="called 'halved' already"):
        zoo.register(zoo.Codec("halved", Halved))


def test_codecs_from_outside_serve_the_command_line_recipes_and_figures(registered, tmp_path, monkeypatch, capsys):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "dark.png")
    cli.main(["code", str(tmp_path / "dark.png"), "--codec", "halved", "--quality", "3", "--out", str(tmp_path)])
    assert "74 bytes" in capsys.readouterr().out and (tmp_path / "dark.coded.hlv").stat().st_size == 74
    how = Training("none", 1, 1, 64, 1e-3, "none", "32-true", 1)
    codecs = Classical("halved", quality=3), Trained("outside", MSE(), 0.01, how)
    halved, outside = (run.start(Recipe("chapter", Pictures("scenes", 2, 64), c, Accuracy(()))) for c in codecs)
    assert halved.quality == 3 and outside.name == "outside"
    assert plots.METHODS["halved"][2] == "half a picture"


def test_a_name_with_a_module_is_found_after_its_import(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "CODECS", dict(zoo.CODECS))
    line = "from icm_helpers.codecs import zoo; zoo.register(zoo.Codec('twice', 'icm_helpers.codecs.classical:Png'))"
    (tmp_path / "twice_codec.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    assert zoo.load("twice_codec:twice").encode(torch.rand(3, 2, 2))[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("png", 30), "png has nothing to set: leave quality out"),
        (("webp",), r"webp needs a quality: from 1 \(smallest\) to 100"),
        (("vvc-inter",), "vvc-inter needs a quality: a QP"),
        (("jpeg", "a.safetensors"), "jpeg has no weights"),
        (("mbt2018-mean-q5", 4), "is of quality 5: leave quality out"),
    ],
)
def test_what_a_codec_does_not_take_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(*wrong)


def test_a_quality_may_be_in_the_name_and_videos_have_codecs_too():
    codec = zoo.load("cheng2020-attn-q2", weights=None)
    assert (codec.name, codec.quality) == ("cheng2020-attn", 2)
    assert zoo.load("hevc-inter", 37).qp == 37 and zoo.load("nerv").decode_video


def test_random_start_depends_on_the_seed_only():
    torch.manual_seed(1)
    first = networks.fingerprint(zoo.load(weights=None))
    torch.manual_seed(1)
    assert networks.fingerprint(zoo.load(weights=None)) == first
    assert networks.fingerprint(zoo.load(weights=None)) != first


def test_an_unknown_name_or_quality_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"Did you mean 'mbt2018-mean'\? Known: mean-scale-small, "):
        zoo.load("mbt2018-maen", 1)
    with pytest.raises(ValueError, match=r"1, 2, 3, 4, 5, 6 \(got 7\)"):
        zoo.load("cheng2020-attn", 7)
    with pytest.raises(ValueError, match="one size only"):
        zoo.load("mean-scale-small", 1)


def test_relu_variant_has_relu():
    assert any(isinstance(m, torch.nn.ReLU) for m in zoo.load("bmshj2018-factorized-relu", 1, weights=None).modules())


@pytest.mark.parametrize(
    ("name", "quality"), [("mean-scale-small", None), ("mbt2018-mean", 1), ("mbt2018-mean-vbr", None)]
)
def test_saved_codec_comes_back_with_tables_and_fingerprint(name, quality, tmp_path):
    codec = zoo.load(name, quality, weights=None)
    networks.save(codec, tmp_path / "codec.safetensors", {"lmbda": "0.01"})
    again = zoo.load(name, quality, weights=tmp_path / "codec.safetensors")
    assert networks.fingerprint(again) == networks.fingerprint(codec)
    assert again.entropy_bottleneck.quantized_cdf.numel()
    with safe_open(tmp_path / "codec.safetensors", "pt") as file:
        assert file.metadata() == {"codec": name, "quality": str(quality), "lmbda": "0.01"}
    assert [path.name for path in tmp_path.iterdir()] == ["codec.safetensors"]


def test_a_file_without_the_packing_of_tables_loads_too_and_is_larger(tmp_path):
    codec, (packed, plain) = zoo.load(), (tmp_path / f"{name}.safetensors" for name in ("packed", "plain"))
    networks.save(codec, packed)
    save_file(codec.state_dict(), plain, metadata={"codec": codec.name, "quality": "None"})
    assert networks.fingerprint(zoo.load(weights=plain)) == networks.fingerprint(zoo.load(weights=packed))
    assert packed.stat().st_size < 0.8 * plain.stat().st_size


def test_fingerprint_changes_with_weights_and_tables_but_not_by_running():
    codec = zoo.load("mbt2018", 1, weights=None)  # its masked convolution edits its weights when it first runs
    prints = [networks.fingerprint(codec)]
    with torch.no_grad():
        codec(torch.rand(1, 3, 64, 64))
        assert networks.fingerprint(codec) == prints[0]
        codec.update(force=True)
        prints.append(networks.fingerprint(codec))
        codec.g_a[0].bias[0] += 1e-6
        prints.append(networks.fingerprint(codec))
    assert len(set(prints)) == 3


def test_a_training_checkpoint_with_module_prefixes_loads(tmp_path):
    codec = zoo.load(weights=None)  # no tables yet, as in the middle of a training
    state = {f"module.{key}": value for key, value in codec.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "last.pth.tar")
    again = zoo.load(weights=tmp_path / "last.pth.tar")
    codec.update(force=True)
    assert networks.fingerprint(again) == networks.fingerprint(codec)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "codec.safetensors"
    networks.save(zoo.load("mbt2018-mean", 1, weights=None), path)
    with pytest.raises(ValueError, match=r"codec.safetensors was saved from load\('mbt2018-mean', 1\)"):
        zoo.load(weights=path)
    torch.save({"g_a.0.weight": torch.zeros(2), "head": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt does not fit mean-scale-small.* is missing"):
        zoo.load(weights=tmp_path / "odd.pt")
    with pytest.raises(FileNotFoundError, match=r"none.pt"):
        zoo.load(weights=tmp_path / "none.pt")


def test_damaged_files_and_pickles_with_code_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    networks.save(zoo.load(weights=None), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"codec.safetensors cannot be read"):
        zoo.load(weights=path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(print, protocol=2))
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_bytes(b"Rate limit exceeded")
    for name in ("evil.pt", "empty.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            zoo.load(weights=tmp_path / name)


def test_missing_shipped_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"start-coco-mini.safetensors are missing.*networks.save"):
        zoo.load()


def test_without_a_network_the_error_names_url_cache_and_alternatives(tmp_path, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = rf"https://\S+cheng2020_attn-mse-3-\S+ .*not known.*{tmp_path}\S*/checkpoints/\S+.*weights="
    with pytest.raises(ConnectionError, match=message):
        zoo.load("cheng2020-attn", 3)
    cached = tmp_path / "hub" / "checkpoints" / Path(image.model_urls["cheng2020-attn"]["mse"][3]).name
    cached.write_bytes(b"cut short")
    with pytest.raises(ConnectionError, match=f"place the whole file at {cached}"):
        zoo.load("cheng2020-attn", 3)
    with pytest.raises(ValueError, match="publishes no 'mse' weights of bmshj2018-factorized-relu"):
        zoo.load("bmshj2018-factorized-relu", 1)
