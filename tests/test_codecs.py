"""The zoo: every codec by name, weights in and out of files, and errors that help."""

import pickle
import urllib.error

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from icm_helpers.codecs import zoo


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_name_constructs_in_eval_mode_and_trainable(name):
    sizes = zoo.ARCHITECTURES[name].sizes
    codec = zoo.load(name, min(sizes) if sizes else None, weights=None)
    assert codec.name == name and not codec.training
    assert all(p.requires_grad for p in codec.parameters())


def test_every_image_model_of_compressai_is_known():
    assert set(zoo.compressai.zoo.image_models) < set(zoo.ARCHITECTURES)


def test_random_start_depends_on_the_seed_only():
    torch.manual_seed(1)
    first = zoo.fingerprint(zoo.load(weights=None))
    torch.manual_seed(1)
    assert zoo.fingerprint(zoo.load(weights=None)) == first
    assert zoo.fingerprint(zoo.load(weights=None)) != first


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
    zoo.save(codec, tmp_path / "codec.safetensors", {"lmbda": "0.01"})
    again = zoo.load(name, quality, weights=tmp_path / "codec.safetensors")
    assert zoo.fingerprint(again) == zoo.fingerprint(codec)
    assert again.entropy_bottleneck.quantized_cdf.numel()
    with safe_open(tmp_path / "codec.safetensors", "pt") as file:
        assert file.metadata() == {"codec": name, "quality": str(quality), "lmbda": "0.01"}
    assert [path.name for path in tmp_path.iterdir()] == ["codec.safetensors"]


def test_a_file_without_the_packing_of_tables_loads_too_and_is_larger(tmp_path):
    codec, (packed, plain) = zoo.load(), (tmp_path / f"{name}.safetensors" for name in ("packed", "plain"))
    zoo.save(codec, packed)
    save_file(codec.state_dict(), plain, metadata={"codec": codec.name, "quality": "None"})
    assert zoo.fingerprint(zoo.load(weights=plain)) == zoo.fingerprint(zoo.load(weights=packed))
    assert packed.stat().st_size < 0.8 * plain.stat().st_size


def test_fingerprint_changes_with_weights_and_tables_but_not_by_running():
    codec = zoo.load("mbt2018", 1, weights=None)  # its masked convolution edits its weights when it first runs
    prints = [zoo.fingerprint(codec)]
    with torch.no_grad():
        codec(torch.rand(1, 3, 64, 64))
        assert zoo.fingerprint(codec) == prints[0]
        codec.update(force=True)
        prints.append(zoo.fingerprint(codec))
        codec.g_a[0].bias[0] += 1e-6
        prints.append(zoo.fingerprint(codec))
    assert len(set(prints)) == 3


def test_a_training_checkpoint_with_module_prefixes_loads(tmp_path):
    codec = zoo.load(weights=None)  # no tables yet, as in the middle of a training
    state = {f"module.{key}": value for key, value in codec.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "last.pth.tar")
    again = zoo.load(weights=tmp_path / "last.pth.tar")
    codec.update(force=True)
    assert zoo.fingerprint(again) == zoo.fingerprint(codec)


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "codec.safetensors"
    zoo.save(zoo.load("mbt2018-mean", 1, weights=None), path)
    with pytest.raises(ValueError, match=r"codec.safetensors was saved from load\('mbt2018-mean', 1\)"):
        zoo.load(weights=path)
    torch.save({"g_a.0.weight": torch.zeros(2), "head": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt does not fit mean-scale-small.* is missing"):
        zoo.load(weights=tmp_path / "odd.pt")
    with pytest.raises(FileNotFoundError, match=r"none.pt"):
        zoo.load(weights=tmp_path / "none.pt")


def test_damaged_files_and_pickles_with_code_are_refused(tmp_path):
    path = tmp_path / "codec.safetensors"
    zoo.save(zoo.load(weights=None), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"codec.safetensors cannot be read"):
        zoo.load(weights=path)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(print, protocol=2))
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("evil.pt", "empty.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            zoo.load(weights=tmp_path / name)


def test_missing_shipped_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"start-coco-mini.safetensors are missing.*zoo.save"):
        zoo.load()


def test_without_a_network_the_error_names_url_cache_and_alternatives(tmp_path, monkeypatch):
    def urlopen(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = rf"https://\S+cheng2020_attn-mse-3-\S+ .*not known.*{tmp_path}\S*/checkpoints/\S+.*weights="
    with pytest.raises(ConnectionError, match=message):
        zoo.load("cheng2020-attn", 3)
    with pytest.raises(ValueError, match="publishes no 'mse' weights of bmshj2018-factorized-relu"):
        zoo.load("bmshj2018-factorized-relu", 1)
