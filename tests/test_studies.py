"""The studies of the chapters: fair comparisons, unique runs, weights that exist."""

from collections import defaultdict
from dataclasses import fields, replace

import pytest
from compressai.zoo.image import model_urls

from icm_helpers import chapters, files, run
from icm_helpers.chapters.object_region_mse import SCENES
from icm_helpers.chapters.objectness_distillation import ABLATIONS, DISTILL_HIGH_LR, DISTILL_SCENES
from icm_helpers.codecs import nerv
from icm_helpers.ledger.recipe import Accuracy, Recipe, flat
from icm_helpers.ledger.study import Study, VideoStudy
from icm_helpers.objectives import MSE, Distill
from icm_helpers.tasks import models

CHAPTERS = [chapters.named(name) for name in chapters.NAMES]
EVERY = [(c.name, p, s) for c in CHAPTERS for p, studies in c.presets.items() for s in studies]
ALL = [entry for entry in EVERY if isinstance(entry[2], Study)]  # those of pictures
each_study = pytest.mark.parametrize("study", [s for *_, s in ALL], ids=["-".join((c, p, s.name)) for c, p, s in ALL])


def conditions(recipe: Recipe, *besides: str) -> tuple:
    """What a codec's loss is compared under: everything but the loss and its scale, and `besides`."""
    same = replace(recipe, codec=replace(recipe.codec, loss=MSE(), scale=1.0))
    return tuple((k, v) for k, v in flat(same).items() if k not in besides)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_studies_and_runs_have_names_of_their_own(chapter):
    for studies in chapter.presets.values():
        assert len({study.name for study in studies}) == len(studies)
        for study in studies:
            recipes = study.recipes()
            assert len({r.run_id for r in recipes}) == len(recipes)


@each_study
def test_losses_are_compared_under_equal_conditions(study):
    compared, own = defaultdict(set), ("lmbda",) if study.ladders else ()  # a paper's, each loss's of its own
    for recipe in study.recipes():
        if recipe.loss and recipe not in study.beside:
            compared[conditions(recipe, *own)].add(recipe.loss)
    losses = [loss for loss, _ in study.losses]
    refined = (
        [loss for loss, _ in study.microscope.losses or study.losses if loss.refinable] if study.microscope else []
    )
    distilled = [loss for loss in losses if isinstance(loss, Distill)]  # whose spending is measured
    probed = [loss for loss in losses if loss.name in study.probed]
    assert {*losses} in compared.values() or not study.lmbdas
    fair = losses, [loss for loss in losses if not loss.costly], refined, distilled, probed
    assert all(found in map(set, fair) for found in compared.values())


@each_study
def test_runs_beside_it_are_trained_and_measured_alike(study):
    mine, other = (
        [r for r in study.recipes() if (r in study.beside) == beside and r.kind == "trained"]
        for beside in (False, True)
    )
    judging = {"chapter", *(f.name for f in fields(Accuracy))}
    if study.chapter == "objectness_distillation":
        judging.add("lr")  # the paper's, or what YOLOv5n's features bear; the chapter says so
    if study.chapter == "compare":
        judging |= {"codec", "roi", "divided", "lr"}  # what it compares, and Iino et al.'s learning rate
    for recipe in other:
        twins = [r for r in mine if (r.setting, r.seed) == (recipe.setting, recipe.seed)]
        assert recipe.seed != study.seeds[0] or twins or recipe.setting not in study.lmbdas
        for twin in twins:
            assert conditions(recipe, *judging) == conditions(twin, *judging)
            heard, wanted = recipe.measured.detectors, twin.measured.detectors
            # Not all of its papers' codecs are heard by all; elsewhere, nothing but a detector that is fine-tuned anew.
            fewer = {*heard} < {*wanted} and (study.chapter == "compare" or not heard)
            assert heard == wanted or fewer or recipe.seed != study.seeds[0]


def test_an_ablation_changes_one_thing_about_distillation():
    trained = [r for study in (DISTILL_SCENES, *DISTILL_HIGH_LR) for r in study.recipes() if r.kind == "trained"]
    for studies in (DISTILL_HIGH_LR, ABLATIONS):
        for recipe in (r for study in studies for r in study.recipes() if r.kind == "trained"):
            rate = DISTILL_SCENES.training.lr if studies is DISTILL_HIGH_LR else recipe.codec.training.lr
            like = (type(recipe.loss), recipe.setting, recipe.seed, rate)
            (twin,) = {r for r in trained if (type(r.loss), r.setting, r.seed, r.codec.training.lr) == like}
            here, there = flat(recipe), flat(twin)
            changed = {k for k in here.keys() | there.keys() if here.get(k) != there.get(k)} - {"scale"}
            assert len(changed) == 1 and changed < {"lr", "levels", "reduction", "temperature", "objectness"}


def test_object_region_and_sa_icm_have_the_lambdas_of_their_papers_and_share_their_codecs():
    codecs = {}
    for study in (s for name in ("object_region_mse", "sa_icm") for s in chapters.named(name).studies("paper")):
        for recipe in (r for r in study.recipes() if r.loss and r.loss.name != "task"):
            assert run.learnt(recipe).pictures.data == "coco2017"
            codecs.setdefault((recipe.loss.method, recipe.codec.lmbda * recipe.codec.scale), set()).add(recipe.codec_id)
    assert all(len(ids) == 1 for ids in codecs.values())  # whatever they are judged on, and by which chapter
    ladders = {"mse": (0.01, 0.005, 0.002, 0.001), "object-region": (0.05, 0.02, 0.01, 0.005)}
    ladders |= {f"sa-icm-{alpha}": (0.05,) for alpha in (0.98, 0.93, 0.48)}
    assert codecs.keys() == {(loss, lmbda) for loss, lmbdas in ladders.items() for lmbda in lmbdas}


def test_the_paper_trains_for_fifty_epochs():
    for study in chapters.named("objectness_distillation").studies("paper"):
        assert 49.9 < study.training.steps * study.training.batch / study.training.train_images <= 50


PUBLISHED = {(s.codec, s.training.start) for *_, s in ALL if s.training.start.startswith("published")}


@pytest.mark.parametrize(("codec", "start"), sorted(PUBLISHED))
def test_published_weights_are_those_of_their_fingerprint(codec, start):
    architecture, _, quality = codec.rpartition("-q")
    assert start.partition("@")[2] in model_urls[architecture]["mse"][int(quality)]


SHIPPED_STARTS = {s.training.start: s for *_, s in ALL if s.lmbdas and s.training.start[:4] not in ("none", "publ")}


@pytest.mark.parametrize("study", SHIPPED_STARTS.values(), ids=SHIPPED_STARTS.keys())
def test_a_start_is_the_file_that_its_fingerprint_says(study):
    recipe = next(r for r in study.recipes() if r.kind == "trained" and r.codec.training == study.training)
    run.start(recipe)
    wrong = replace(study.training, start=study.training.start[:-8] + "00000000")
    with pytest.raises(ValueError, match="starts from 00000000: other weights"):
        run.start(replace(recipe, codec=replace(recipe.codec, training=wrong)))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_a_claim_that_awaits_its_runs_compares_what_pending_studies_make_and_judge(chapter):
    ids = [claim.id for claim in chapter.claims + chapter.awaiting]
    pending = [s.recipes() for s in chapter.presets.get("pending", ()) if s.role == "main"]
    assert len({*ids}) == len(ids)
    for claim in chapter.awaiting:
        tested = [r for r in pending if {claim.anchor, claim.method} <= {recipe.method for recipe in r}]
        judges = {judge for r in tested for recipe in r for judge in recipe.measured.detectors}
        named = any(judge.startswith("deeplab") for judge in judges)
        assert tested and "before any run" in claim.stated and ("miou" not in claim.metrics or named)


def test_networks_of_videos_have_the_channels_that_studies_say():
    for *_, study in EVERY:
        if isinstance(study, VideoStudy):
            assert all(nerv.SIZES[name]["fc_hw_dim"][2] == channels for name, channels in study.networks)


def test_a_shipped_or_real_model_is_the_file_that_its_fingerprint_says(real_data):
    named = {detector for *_, s in EVERY for detector in s.measured.detectors}
    present = [(name, mark, models.MODELS[name].file()) for name, mark in map(files.unmarked, named)]
    present = [each for each in present if each[2].is_file()]
    assert {"mask-rcnn-small", "yolov5n", "yolox-nano"} <= {name for name, *_ in present}
    for _, mark, path in present:
        assert mark == files.fingerprint(path)


def test_a_wrong_name_is_an_error_that_lists_what_there_is():
    with pytest.raises(ValueError, match="no chapter is called 'no_such'; known: compare, object_region_mse"):
        chapters.named("no_such")
    with pytest.raises(
        ValueError, match=r"a preset of object_region_mse is one of smoke, book, .*paper, rehearsal, not 'huge'"
    ):
        chapters.named("object_region_mse").studies("huge")
    with pytest.raises(ValueError, match="no role of a study is called 'best'; known: main"):
        replace(SCENES, role="best")


def test_settings_tell_a_reader_what_decides_a_study():
    told = SCENES.settings()
    assert (told["data"], told["steps"], told["lmbdas"]) == ("scenes", 4000, SCENES.lmbdas)
    assert told["scales"] == (("mse", 1.0), ("object-region", 5.0), ("task", 0.5))
    assert (told["teacher"], told["detectors"]) == ("mask-rcnn-small", ("mask-rcnn-small", "yolov5n-scenes"))
    assert not any(name.startswith("microscope") for name in told)
