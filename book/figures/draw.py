"""The methods of the papers, drawn in one style: `.venv/bin/python book/figures/draw.py` writes the SVG files beside it.

Blue is trained, grey and dashed is frozen, orange is sent, dotted is the way of the gradient. Files have a ground of their own, so
they read on light and dark pages and on paper. In a phone's column of 340 pixels a text of 15 units, of 560, has 9 pixels.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

INK, ROSE = "#1f2933", "#a3195b"
KINDS = {
    "plain": ("#ffffff", INK, ""),
    "trained": ("#cfe6f7", "#0067a3", ""),
    "frozen": ("#e3e5e8", "#5b6470", "6 4"),
    "loss": ("#fbe3ee", ROSE, ""),
}
LINES = {"data": (INK, 1.8, ""), "sent": ("#c04f00", 5, ""), "gradient": (ROSE, 2.4, "2 5")}
Point = tuple[float, float]


def box(x: float, y: float, width: float, height: float, text: str, kind: str = "plain") -> str:
    """A box with its lines of text, the first of which is what it is."""
    fill, edge, dash = KINDS[kind]
    lines = text.split("\n")
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    words = "".join(
        f'<text x="{x + width / 2:g}" y="{top + 18 * k:g}">{escape(line)}</text>' for k, line in enumerate(lines)
    )
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"'
    return f'{shape} fill="{fill}" stroke="{edge}" stroke-width="1.8" stroke-dasharray="{dash}"/>{words}'


def arrow(*points: Point, kind: str = "data") -> str:
    """An arrow along some points."""
    colour, width, dash = LINES[kind]
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-dasharray="{dash}" '
        f'stroke-linecap="round" marker-end="url(#{kind})"/>'
    )


def note(x: float, y: float, text: str, anchor: str = "middle", colour: str = INK) -> str:
    """A few words beside a line."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" style="text-anchor:{anchor}">{escape(text)}</text>'


def svg(height: float, says: str, *parts: str) -> str:
    """A whole picture; `says` is what it says to those who cannot see it."""
    heads = "".join(
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="{size}" markerHeight="{size}" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{LINES[kind][0]}"/></marker>'
        for kind, size in (("data", 11), ("sent", 17), ("gradient", 12))
    )
    style = f"text{{font:15px system-ui,Helvetica,Arial,sans-serif;fill:{INK};text-anchor:middle}}"
    ground = f'<rect width="560" height="{height:g}" rx="10" fill="#fbfbf9"/>'
    drawn = "".join(parts)
    key = legend(height - 22, frozen=KINDS["frozen"][0] in drawn, learns=LINES["gradient"][0] in drawn)
    body = "\n".join([f"<title>{escape(says)}</title><defs>{heads}</defs><style>{style}</style>{ground}", *parts, key])
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 {height:g}" role="img">\n{body}\n</svg>\n'


def legend(y: float, frozen: bool, learns: bool) -> str:
    """What the colours mean, those of frozen networks and of gradients where there are some."""
    marks = []
    for x, kind in ((16, "trained"), (122, "frozen"))[: 1 + frozen]:
        fill, edge, dash = KINDS[kind]
        mark = f'<rect x="{x}" y="{y - 8:g}" width="22" height="15" rx="3"'
        marks.append(f'{mark} fill="{fill}" stroke="{edge}" stroke-width="1.8" stroke-dasharray="{dash}"/>')
        marks.append(note(x + 30, y + 5, kind, "start"))
    for x, kind in ((226, "sent"), (328, "gradient"))[: 1 + learns]:
        marks += [arrow((x, y), (x + 34, y), kind=kind), note(x + 44, y + 5, kind, "start")]
    return "\n".join(marks)


def codec() -> list[str]:
    """A picture, its codec, and what comes out."""
    return [
        box(10, 16, 92, 50, "picture\nx"),
        arrow((102, 41), (128, 41)),
        box(130, 16, 92, 50, "encoder", "trained"),
        arrow((222, 41), (336, 41), kind="sent"),
        note(276, 29, "bits"),
        box(340, 16, 92, 50, "decoder", "trained"),
        arrow((432, 41), (456, 41)),
        box(458, 16, 92, 50, "decoded\nx̂"),
    ]


def masked(mask: str) -> list[str]:
    """A loss that sees both pictures through a mask, with nothing else in the gradient's way."""
    return [
        arrow((56, 66), (56, 104)),
        arrow((504, 66), (504, 104)),
        box(10, 106, 92, 50, f"only in\n{mask}"),
        box(458, 106, 92, 50, f"only in\n{mask}"),
        arrow((102, 131), (168, 131)),
        arrow((458, 131), (392, 131)),
        box(170, 106, 220, 50, "rate + λ · squared error", "loss"),
        arrow((200, 106), (180, 70), kind="gradient"),
        arrow((360, 106), (380, 70), kind="gradient"),
    ]


def drawings() -> dict[str, str]:
    """Every picture by its name."""
    return {
        "object_region_mse": svg(
            222,
            "Both pictures are masked to the objects before they are compared. The gradient goes straight to the codec; "
            "no detector takes part, and no mask is sent.",
            *codec(),
            *masked("objects"),
            note(280, 182, "The mask is needed in training only. No detector takes part."),
        ),
        "objectness_distillation": svg(
            250,
            "A frozen detector turns both pictures into features, which the loss compares, with the detector's own "
            "objectness as weight. The gradient passes through the detector to the codec.",
            *codec(),
            arrow((56, 66), (56, 104)),
            arrow((496, 66), (496, 104)),
            box(10, 106, 92, 50, "detector", "frozen"),
            box(458, 106, 92, 50, "detector", "frozen"),
            arrow((102, 120), (168, 120)),
            note(135, 112, "F"),
            arrow((102, 145), (168, 145)),
            note(135, 166, "weight"),
            arrow((458, 120), (392, 120)),
            note(425, 112, "F̂"),
            box(170, 106, 220, 50, "rate + λ · weighted\nerror of features", "loss"),
            arrow((392, 145), (456, 145), kind="gradient"),
            arrow((520, 106), (520, 70), kind="gradient"),
            arrow((456, 57), (436, 57), kind="gradient"),
            arrow((338, 57), (226, 57), kind="gradient"),
            note(280, 190, "The weight is the detector's objectness: where it suspects"),
            note(280, 209, "something, features must be kept. No labels are needed."),
        ),
        "sa_icm": svg(
            264,
            "Segment Anything cuts the picture into segments. Both pictures are masked to the edges between them before "
            "they are compared. The gradient goes straight to the codec; no edges are sent.",
            *codec(),
            *masked("edges"),
            box(10, 182, 150, 42, "Segment Anything", "frozen"),
            arrow((56, 182), (56, 160)),
            note(172, 199, "draws the edges, in training only.", "start"),
            note(172, 218, "No detector takes part.", "start"),
        ),
        "sa_nerv": svg(
            264,
            "A network turns the time of a frame into the frame. Its weights are what is sent. The loss compares whole "
            "frames, and once more only at Segment Anything's edges; the gradient goes to the network.",
            box(10, 16, 92, 50, "time\nt"),
            arrow((102, 41), (158, 41)),
            box(160, 16, 150, 50, "network", "trained"),
            arrow((310, 41), (456, 41)),
            box(458, 16, 92, 50, "drawn\nx̂"),
            arrow((200, 66), (160, 102), kind="sent"),
            box(10, 106, 220, 50, "its weights are the file:\npruned, rounded, packed"),
            arrow((504, 66), (504, 104)),
            box(362, 106, 188, 50, "error of all pixels\n+ error at the edges", "loss"),
            arrow((390, 106), (300, 70), kind="gradient"),
            box(458, 182, 92, 42, "frame x"),
            arrow((504, 182), (504, 160)),
            arrow((458, 203), (392, 203)),
            box(240, 182, 150, 42, "Segment Anything", "frozen"),
            arrow((376, 182), (400, 160)),
            note(372, 174, "edges", "end"),
        ),
        "compare": svg(
            222,
            "A detector at the encoder says where objects are, and the encoder spends its bits there. Only bits are sent; the "
            "decoder and the models that look at the decoded picture stay as they are.",
            *codec(),
            arrow((56, 66), (56, 104)),
            box(10, 106, 92, 50, "detector", "frozen"),
            arrow((102, 131), (176, 131), (176, 70)),
            note(186, 124, "where objects are", "start"),
            arrow((504, 66), (504, 104)),
            box(458, 106, 92, 50, "any model", "frozen"),
            note(280, 182, "No region is sent: the decoder needs nothing but the bits."),
        ),
    }


if __name__ == "__main__":
    for name, text in drawings().items():
        (Path(__file__).parent / f"{name}.svg").write_text(text, encoding="utf-8")
