import base64
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sdseg.evaluation.page import data_uri, label, markdown_table, number
from sdseg.evaluation.report import build_report, collect_rows, main, make_row, parse_predictions
from sdseg.imaging import write_alpha, write_grey16, write_image
from sdseg.outputs import write_run_record

RNG = np.random.default_rng(0)


class Page(HTMLParser):
    """Collects what a browser would load, and the headings of photos in order."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.tags, self.pictures, self.captions, self.headings, self._inside = [], set(), [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        attributes = dict(attributes)
        self.links += [value for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.pictures.append(attributes)
        self._inside = tag

    def handle_data(self, data):
        if self._inside == "h3":
            self.headings.append(data.strip())
        elif self._inside == "figcaption":
            self.captions.append(data)
        self._inside = None


def decoded(uri: str) -> np.ndarray:
    prefix, content = uri.split(",")
    assert prefix == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content, validate=True))))


def row(name: str, error: float, height: int = 64, width: int = 48, judged: bool = True, methods=("ours",)):
    truth = np.full((height, width), 0.25, np.float32)
    mattes = {method: (truth + np.float32(error), np.full((height, width), 0.1, np.float32)) for method in methods}
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    metrics = {method: {"mad": error} for method in methods} if judged else None
    return make_row(name, image, truth if judged else None, mattes, metrics)


def written(tmp_path, rows, title="Title", summary=()) -> tuple[str, Page]:
    build_report(tmp_path / "report.html", title, list(summary), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text("utf-8")
    return text, Page(text)


def test_page_is_self_contained(tmp_path):
    text, page = written(
        tmp_path, [row("a", 0.1), row("b", 0.2, judged=False)], summary=[{"method": "ours", "mad": 0.1}]
    )
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?:|file:|url\(|@import", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert not page.tags & {"script", "link", "iframe", "object", "base", "form"}
    assert "default-src 'none'" in text


def test_worst_first_and_unjudged_apart(tmp_path):
    rows = [row("good", 0.1), row("bad", 0.6), row("calm", 0.5, judged=False), row("middle", 0.3)]
    unsure = row("unsure", 0.5, judged=False)
    unsure.results["ours"].uncertainty[:] = 0.3
    text, page = written(tmp_path, [*rows, unsure])
    assert page.headings == ["bad", "middle", "good", "unsure", "calm"]
    assert text.index("With ground truth, worst first") < text.index("bad") < text.index("good")
    assert text.index("good") < text.index("Without ground truth") < text.index("unsure")
    assert page.captions.count("truth") == page.captions.count("|error|") == 3
    assert page.captions.count("photo") == page.captions.count("matte") == page.captions.count("uncertainty") == 5


def test_the_first_method_decides_the_order(tmp_path):
    first, second = (row(name, 0.1, methods=("ours", "otsu")) for name in ("x", "y"))
    first.results["ours"].metrics["mad"], second.results["ours"].metrics["mad"] = 0.1, 0.2
    first.results["otsu"].metrics["mad"] = 0.9
    text, page = written(tmp_path, [first, second])
    assert page.headings == ["y", "x"]
    assert page.captions.count("photo") == 2 and page.captions.count("matte") == 4
    assert text.count("<h4>otsu</h4>") == 2 and "0.9000" in text


HOSTILE = "<script>alert('1')</script>\"&amp;{title}\n/ünïcode\udcff"


def test_hostile_names_stay_text(tmp_path):
    hostile = row(HOSTILE, 0.1, methods=("<b>m</b>",))
    text, page = written(tmp_path, [hostile], title=HOSTILE, summary=[{"method": "<i>x</i>", "<u>": 1}])
    assert not page.tags & {"script", "i", "u"}
    assert "<b>m" not in text and unescape("&lt;script&gt;") in unescape(text)
    assert "{title}" in text and "ünïcode?" in text


def test_pictures_are_embedded_at_the_right_size(tmp_path):
    small, large = row("small", 0.25, 64, 48), row("large", 0.1, 700, 1000)
    _, page = written(tmp_path, [small, large])
    shown = [picture for picture in page.pictures if picture["alt"]]
    arrays = [decoded(picture["src"]) for picture in shown]
    assert [array.shape[:2] for array in arrays] == [(64, 48)] * 5 + [(358, 512)] * 5
    kinds = ["photo", "truth", "matte", "|error|", "uncertainty"]
    assert [picture["alt"] for picture in shown] == kinds * 2
    np.testing.assert_array_equal(arrays[0], small.image)
    assert (arrays[1] == 64).all() and (arrays[2] == 128).all(), "alpha .25 and .5 in 8 bits"
    for picture, width in zip(shown, [144] * 5 + [224] * 5, strict=True):  # 48 threefold; 1000 fitted to 224
        assert picture["style"] == f"--shown:{width}px"
        assert (picture.get("class") == "crisp") == (width == 144)


def test_colour_scales_end_where_the_values_do(tmp_path):
    _, page = written(tmp_path, [row("a", 0.15)])
    text, _ = written(tmp_path, [row("a", 0.15)])
    assert "≥ 0.2<" in text and "≥ 0.1<" in text  # |error| .15 on a scale to .2, uncertainty .1 on one to .1
    bars = [decoded(picture["src"])[0] for picture in page.pictures if not picture["alt"]]
    by_caption = {picture["alt"]: decoded(picture["src"])[0, 0] for picture in page.pictures}
    np.testing.assert_array_equal(by_caption["|error|"], bars[0][191])  # .15 / .2 of 255
    np.testing.assert_array_equal(by_caption["uncertainty"], bars[1][255])


def test_data_uri_round_trip():
    image = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(data_uri(image)), image)


def test_markdown_tables():
    text = markdown_table(["method", "MAD"], [["a|b", "0.1"], ["c\nd", "0.2"]])
    assert text == "| method | MAD |\n|---|---|\n| a\\|b | 0.1 |\n| c d | 0.2 |"
    assert markdown_table(["", "x", "y"], [], figures=True).splitlines()[1] == "|---|---:|---:|"


def test_labels_and_numbers():
    assert [label(name) for name in ("mad", "transition.sad", "boundary_f")] == ["MAD", "transition SAD", "Boundary F"]
    assert [label(name) for name in ("uncertainty.within_1_std", "mean_iou")] == ["uncertainty within 1 std", "mIoU"]
    assert [number(value) for value in (None, 3, 0.12346, "text")] == ["–", "3", "0.1235", "text"]


# ------------------------------------------------------------------------------------------------- from folders


@pytest.fixture
def folders(tmp_path):
    """Three photos, truth for two of them, and the output folders of two methods."""
    for index, name in enumerate(("a", "sub/b", "c")):
        write_image(tmp_path / "in" / f"{name}.png", np.full((20, 30, 3), 90, np.uint8))
        if name != "c":
            write_alpha(tmp_path / "truth" / f"{name}.png", np.zeros((20, 30)))
        for method, error in (("ours", 0.1 + 0.2 * index), ("otsu", 0.5)):
            write_alpha(tmp_path / method / f"{name}.png", np.full((20, 30), error))
        write_grey16(tmp_path / "ours" / f"{name}.uncertainty.png", np.full((20, 30), 0.05))
    return tmp_path


def test_command_line(folders, tmp_path, capsys):
    output = tmp_path / "page" / "report.html"
    given = ["--images", str(tmp_path / "in"), "--ground_truth", str(tmp_path / "truth"), "--output", str(output)]
    assert main([*given, "--prediction", f"mine={tmp_path / 'ours'}", str(tmp_path / "otsu")]) == 0
    text = output.read_text("utf-8")
    page = Page(text)
    assert page.headings == ["sub/b", "a", "c"]
    assert page.captions.count("matte") == 6 and page.captions.count("uncertainty") == 3
    assert page.captions.count("truth") == 2
    assert "<td>mine</td><td>2</td>" in text and "<td>otsu</td>" in text
    assert "0.2000" in text, "mean MAD of .1 and .3"
    assert "3 photos" in capsys.readouterr().out


def test_rows_may_be_limited(folders, tmp_path):
    _, rows = collect_rows(tmp_path / "in", {"ours": tmp_path / "ours"}, tmp_path / "truth", max_rows=1)
    assert [row.name for row in rows] == ["sub/b", "c"]
    _, rows = collect_rows(tmp_path / "in", {"ours": tmp_path / "ours"})
    assert [row.name for row in rows] == ["a", "c", "sub/b"] and all(row.truth is None for row in rows)


def test_errors_name_the_thing(folders, tmp_path, capsys):
    def error(*arguments) -> str:
        assert main([*map(str, arguments), "--output", str(tmp_path / "r.html")]) == 2
        assert not (tmp_path / "r.html").exists()
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
        return err

    images, truth, ours = tmp_path / "in", tmp_path / "truth", tmp_path / "ours"
    assert "none" in error("--images", tmp_path / "none", "--prediction", ours)
    (tmp_path / "bare").mkdir()
    assert "no matte of any photo" in error("--images", images, "--prediction", tmp_path / "bare")
    assert "name them apart" in error("--images", images, "--prediction", ours, ours)
    write_alpha(truth / "d.png", np.zeros((4, 4)))
    assert "no photo for the ground truth" in error("--images", images, "--prediction", ours, "--ground_truth", truth)
    (truth / "d.png").unlink()
    write_alpha(ours / "c.png", np.zeros((4, 4)))
    assert "ours or its truth is 4x4, but the photo is 30x20" in error("--images", images, "--prediction", ours)


def test_predictions_are_named(tmp_path):
    (tmp_path / "a=b").mkdir()
    given = [str(tmp_path / "x"), "name=folder", str(tmp_path / "a=b")]
    assert list(parse_predictions(given)) == ["x", "name", "a=b"]


def test_mattes_of_another_run_are_left_out_or_named(tmp_path, capsys):
    for name in ("failed", "unlisted", "known"):
        write_image(tmp_path / "in" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
        write_alpha(tmp_path / "out" / f"{name}.png", np.zeros((8, 8)))
        write_grey16(tmp_path / "out" / f"{name}.uncertainty.png", np.zeros((8, 8)))
    rows = [{"input": "failed.png", "error": "truncated"}, {"input": "known.png", "output": "known.png"}]
    write_run_record(tmp_path / "out", {"method": "x", "settings": {}, "inputs": rows})
    _, shown = collect_rows(tmp_path / "in", {"ours": tmp_path / "out"})
    assert [row.name for row in shown] == ["known", "unlisted"]
    assert [row.results["ours"].uncertainty is None for row in shown] == [True, False]
    note = capsys.readouterr().err
    assert note.startswith("note: 1 mattes are not listed") and str(tmp_path / "out" / "unlisted.png") in note


def test_captions_say_what_is_in_the_uncertainty(tmp_path):
    image, alpha = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))
    mattes = {name: (alpha, alpha + 0.1) for name in ("ours", "raw", "theirs")}
    row = make_row("a", image, None, mattes, scales={"ours": 1.6787, "raw": None})
    build_report(tmp_path / "page.html", "title", [], [row])
    captions = [result.caption for result in row.results.values()]
    assert captions == ["uncertainty × 1.68", "uncertainty, raw", "uncertainty"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(f"<figcaption>{caption}</figcaption>" in page for caption in captions)
