"""Interactive figures: every point of the picture is there with its numbers, and one legend serves all panels."""

import base64
import hashlib
import importlib
import json
import re

import numpy as np
from nbformat.v4 import new_code_cell, new_notebook, new_output

from icm_helpers import chapters, plots
from icm_helpers.bd import Curve
from icm_helpers.files import ROOT
from icm_helpers.ledger import interactive, queries, results


def drawn(panels):
    found = re.fullmatch(
        r'<script type="application/json" class="rate-accuracy">(.*)</script>', interactive.chart(panels, "t").data
    )
    return json.loads(found[1], parse_constant=lambda word: 1 / 0)


def test_a_point_says_its_method_lambda_seed_rate_and_accuracy_with_its_interval():
    recipes = [r for r in chapters.named("object_region_mse").studies()[0].recipes() if r.method in ("mse", "jpeg")]
    panel = queries.panel([results.read(r) for r in recipes], "box_ap", "mask-rcnn-small")
    traces = drawn([panel])["data"]
    told = {t["name"]: t["hovertext"][0] for t in traces if t["mode"] == "lines+markers"}
    number = r"0\.\d+"
    assert re.fullmatch(
        rf"MSE, mean of seeds 0, 1, 2<br>λ 0\.001<br>{number} bpp<br>box AP of mask-rcnn-small {number} \[{number}, {number}\]",
        told["MSE"],
    )
    assert told["JPEG"].startswith("JPEG<br>quality 10<br>")
    assert {t["hovertext"][0].split("<br>")[0] for t in traces if t["mode"] == "markers"} == {
        f"MSE, seed {seed}" for seed in (0, 1, 2)
    }


def test_a_page_has_its_charts_at_its_end_each_named_by_its_picture(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    build = importlib.import_module("build")
    picture, chart = base64.b64encode(b"pixels").decode(), interactive.chart([], "t").data
    shown = [new_output("display_data", {kind: data}) for kind, data in (("image/png", picture), ("text/html", chart))]
    *_, cell, last = build.explored(new_notebook(cells=[new_code_cell("panels()", outputs=shown)])).cells
    assert [list(output.data) for output in cell.outputs] == [["image/png"]]
    assert f'data-picture="{hashlib.sha256(b"pixels").hexdigest()}"' in last.outputs[0].data["text/html"]


def test_a_click_on_the_one_entry_of_a_method_hides_it_in_all_panels():
    flat = np.ones((3, 2))
    curve = Curve("mse", np.array([0.1, 0.2]), np.array([0.3, np.nan]), flat, flat, settings=(1.0, 2.0))
    figure = drawn([("</script>", {"mse": curve}, 0.5), ("mask AP", {"mse": curve}, None)])
    assert {trace["legendgroup"] for trace in figure["data"]} == {"mse"}
    assert [trace["xaxis"] for trace in figure["data"] if trace["showlegend"]] == ["x1"]
    assert len(figure["layout"]["shapes"]) == 1


def test_every_method_says_what_decides_its_rate():
    told = {
        name: plots.setting(name) for name in ("mse", "sa-icm-0.93", "jpeg", "hevc", "vvc", "nerv", "sa-nerv", "mine")
    }
    assert told == {
        **dict.fromkeys(("mse", "sa-icm-0.93"), "λ"),
        **{"jpeg": "quality", "hevc": "QP", "vvc": "QP", "mine": "rate"},
        **dict.fromkeys(("nerv", "sa-nerv"), "channels"),
    }
