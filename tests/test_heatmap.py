"""Relevance becomes pictures that say what they should: red for, blue against, white nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnxlrp.errors import ChoiceError, InputError
from onnxlrp.figure import Panel, bars, figure, grid, save_figure
from onnxlrp.files import atomic_write
from onnxlrp.heatmap import enlarge, normalise, overlay, reduce_channels, render, save_heatmap

WHITE = [255, 255, 255]


def signed(height: int = 6, width: int = 8) -> NDArray[np.float64]:
    return np.random.default_rng(3).standard_normal((height, width))


def gray(height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 120, np.uint8)


def luminance(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(picture @ np.array([0.299, 0.587, 0.114]))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_summing_channels_keeps_the_total(layout: str) -> None:
    relevance = np.random.default_rng(0).standard_normal([{"N": 2, "C": 3, "H": 4, "W": 5}[axis] for axis in layout])
    reduced = reduce_channels(relevance.astype(np.float32), layout)
    assert reduced.shape == (2, 4, 5)
    np.testing.assert_allclose(reduced.sum(), relevance.sum(), rtol=1e-5)


@pytest.mark.parametrize(("how", "expected"), [("sum", -1.0), ("abs-sum", 7.0), ("l2", 5.0), ("max", 4.0)])
def test_each_reduction_is_its_formula(how: str, expected: float) -> None:
    assert reduce_channels(np.array([[[[3.0]], [[-4.0]]]]), how=how).item() == expected


def test_a_layout_without_channels_keeps_its_axes() -> None:
    np.testing.assert_array_equal(reduce_channels(-np.ones((2, 3, 4)), "NHW"), -np.ones((2, 3, 4)))
    assert reduce_channels(-np.ones((2, 3)), "HW", "abs-sum").min() == 1


def test_a_layout_of_another_rank_and_an_unknown_reduction_are_errors() -> None:
    with pytest.raises(InputError, match=r'shape \(2, 3\) does not have the axes "NCHW"'):
        reduce_channels(np.ones((2, 3)))
    with pytest.raises(ChoiceError, match=r'how = "mean" does not exist\. Choose one of sum, abs-sum'):
        reduce_channels(np.ones((1, 1, 1, 1)), how="mean")


def test_the_most_positive_pixel_is_red_the_most_negative_blue_and_zero_white() -> None:
    drawn = render(np.array([[2.0, 0.0, -2.0]]))
    assert (drawn.dtype, drawn.shape) == (np.uint8, (1, 3, 3))
    red, zero, blue = drawn[0].astype(int)
    assert red[0] > red[1] + 100
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100
    assert zero.tolist() == WHITE


def test_the_scale_is_centred_at_zero_even_where_nothing_is_negative() -> None:
    assert render(np.array([[0.0, 1.0, 10.0]]))[0, 0].tolist() == WHITE
    weak_for, weak_against = render(np.array([[1.0, -1.0, 10.0]]))[0, :2].astype(int)
    assert weak_for[0] == 255 or weak_for[0] > weak_for[2]
    assert weak_against[2] > weak_against[0]


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_stronger_is_darker(kind: str) -> None:
    assert (np.diff(luminance(render(np.linspace(0, 1, 60)[None], kind))[0]) <= 0.5).all()


@pytest.mark.parametrize("kind", ["signed", "positive"])
def test_a_map_of_zeros_is_white_and_divides_by_nothing(kind: str) -> None:
    zeros = np.zeros((3, 4))
    assert (render(zeros, kind) == 255).all()
    assert (render(zeros, kind, percentile=99) == 255).all()
    assert (normalise(zeros) == 0).all()
    np.testing.assert_array_equal(overlay(zeros, gray(), kind), overlay(zeros, gray(), "signed"))


def test_tiny_and_huge_relevance_look_the_same() -> None:
    np.testing.assert_array_equal(render(signed() * 1e-30), render(signed() * 1e30))


def test_a_percentile_keeps_one_extreme_from_hiding_the_rest() -> None:
    heatmap = np.full((10, 10), 1.0)
    heatmap[0, 0] = 1000.0
    assert luminance(render(heatmap))[5, 5] > 250
    assert luminance(render(heatmap, percentile=95))[5, 5] < 60
    assert normalise(heatmap, percentile=95)[0, 0] == 1.0


def test_a_percentile_of_a_sparse_map_does_not_blank_it() -> None:
    heatmap = np.zeros((20, 20))
    heatmap[3, 3] = 5.0
    assert render(heatmap, percentile=90)[3, 3].tolist() != WHITE


def test_a_shared_scale_makes_two_images_comparable() -> None:
    batch = np.stack([signed(), signed() * 0.1])
    shared, alone = normalise(batch, scale="shared"), normalise(batch, scale="image")
    np.testing.assert_allclose(shared[1], shared[0] * 0.1)
    np.testing.assert_allclose(alone[1], alone[0])
    faint, full = render(shared[1], limit=1.0), render(shared[0], limit=1.0)
    assert luminance(faint).min() > luminance(full).min() + 50


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_an_error_that_says_where(bad: float) -> None:
    heatmap = signed()
    heatmap[2, 5] = bad
    for draw in (
        render,
        normalise,
        lambda values: overlay(values, gray()),
        lambda values: figure([Panel("a", values)]),
    ):
        with pytest.raises(InputError, match=rf"1 of 48 values are not finite, first {bad} at \(2, 5\)"):
            draw(heatmap)


def test_negative_magnitudes_are_an_error() -> None:
    with pytest.raises(InputError, match=r'"positive" met the negative value -0\.5'):
        render(np.array([[1.0, -0.5]]), "positive")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "jet"}, 'kind = "jet" does not exist. Choose one of signed, positive'),
        ({"resample": "cubic", "size": (9, 9)}, 'resample = "cubic"'),
        ({"percentile": 0}, "percentile = 0 does not fit"),
    ],
)
def test_an_unknown_choice_lists_the_known_ones(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        render(signed(), **arguments)


def test_nearest_keeps_squares_and_bilinear_blends() -> None:
    checkers = np.array([[1.0, -1.0], [-1.0, 1.0]])
    crisp = render(checkers, size=(8, 8), resample="nearest")
    assert len(np.unique(crisp.reshape(-1, 3), axis=0)) == 2
    assert (crisp[:4, :4] == crisp[0, 0]).all()
    assert len(np.unique(render(checkers, size=(8, 8), resample="bilinear").reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize("picture", [gray(), gray()[..., 0], gray()[..., :1]])
def test_an_overlay_shows_the_gray_picture_where_nothing_is_relevant(picture: NDArray[np.uint8]) -> None:
    heatmap = np.zeros((12, 16))
    heatmap[2, 3], heatmap[9, 12] = 1.0, -1.0
    laid = overlay(heatmap, picture).astype(int)
    assert laid.shape == (12, 16, 3)
    assert laid[2, 3, 0] > laid[2, 3, 1] + 80
    assert laid[9, 12, 2] > laid[9, 12, 0] + 80
    assert len(set(laid[0, 0])) == 1


def test_an_overlay_brings_a_coarse_map_to_the_pictures_size() -> None:
    laid = overlay(np.array([[1.0, 0.0]]), gray(), resample="nearest").astype(int)
    assert (laid[:, :8, 0] > laid[:, :8, 1]).all()
    assert (laid[:, 8:, 0] == laid[:, 8:, 1]).all()


def test_a_picture_of_floats_is_an_error() -> None:
    with pytest.raises(InputError, match=r"expects uint8 .* met float64 \(12, 16, 3\)"):
        overlay(signed(), gray().astype(np.float64))  # type: ignore[arg-type]


def test_a_saved_png_holds_the_rendered_pixels_and_small_maps_are_enlarged(tmp_path: Path) -> None:
    save_heatmap(tmp_path / "new" / "a.png", signed())
    with Image.open(tmp_path / "new" / "a.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), enlarge(render(signed())))
        assert min(drawn.size) >= 224


def test_a_saved_svg_is_vector_markup(tmp_path: Path) -> None:
    save_heatmap(tmp_path / "a.svg", signed(), picture=gray())
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text.startswith("<svg ")
    assert "pixelated" in text


def test_an_unknown_suffix_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ChoiceError, match=r'"\.bmp"'):
        save_heatmap(tmp_path / "a.bmp", signed())
    with pytest.raises(ChoiceError, match=r'"\.bmp"'):
        save_figure(tmp_path / "a.bmp", figure([Panel("a", signed())]))
    assert not list(tmp_path.iterdir())


def test_a_file_that_breaks_half_way_never_stays_and_the_old_one_does(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")

    def break_half_way() -> None:
        with atomic_write(tmp_path / "a.txt") as draft:
            draft.write_text("ne", encoding="utf-8")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        break_half_way()
    assert [(entry.name, entry.read_text(encoding="utf-8")) for entry in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"a\.png: cannot be written .*file' must be writable"):
        save_heatmap(tmp_path / "file" / "a.png", signed())


def test_a_figure_puts_the_picture_first_and_a_bar_under_each_map() -> None:
    drawing = figure([Panel("LRP", signed()), Panel("sensitivity", abs(signed()), "positive")], gray(), "cat · 14.2")
    titles = [axis.get_title() for axis in drawing.axes if axis.get_title()]
    assert titles == ["input", "LRP", "sensitivity"]
    assert drawing.get_suptitle() == "cat · 14.2"
    assert len(drawing.axes) == 3 + 2


def test_a_shared_scale_has_one_bar_per_kind_and_the_largest_value_on_it() -> None:
    panels = [Panel("a", signed() * 2), Panel("b", signed()), Panel("c", abs(signed()), "positive")]
    drawing = figure(panels, scale="shared")
    bar_axes = drawing.axes[3:]
    assert len(bar_axes) == 2
    assert bar_axes[0].get_xlim() == pytest.approx((-2 * abs(signed()).max(), 2 * abs(signed()).max()))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_figures_are_saved_by_suffix_with_any_title(tmp_path: Path, suffix: str) -> None:
    drawing = figure([Panel("$5 or $6_{", signed())], title="100 % of the $\\money " * 9)
    save_figure(tmp_path / f"a{suffix}", drawing)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").stat().st_size > 1000


@pytest.mark.parametrize("scale", ["image", "shared"])
def test_a_grid_holds_a_batch(tmp_path: Path, scale: str) -> None:
    drawing = grid([Panel(str(number), signed() * number) for number in range(5)], columns=3, scale=scale)
    assert len(drawing.axes) == 6 + (5 if scale == "image" else 1)
    save_figure(tmp_path / "a.png", drawing, dpi=50)


def test_figures_need_panels_of_two_axes_and_a_known_scale() -> None:
    with pytest.raises(InputError, match=r"panel 'a' expects \(height, width\), met \(8,\)"):
        figure([Panel("a", signed()[0])])
    with pytest.raises(InputError, match="no panels"):
        figure([])
    with pytest.raises(ChoiceError, match='scale = "log" does not exist'):
        grid([Panel("a", signed())], scale="log")


def test_bars_show_the_largest_and_what_the_others_add_up_to() -> None:
    axis = bars(np.array([1.0, -5.0, 0.5, 0.25]), ["a", "b$", "c", "d"], most=2).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b$", "a", "2 others"]
    assert [patch.get_width() for patch in axis.patches] == [-5.0, 1.0, 0.75]
    against, for_ = axis.patches[0].get_facecolor(), axis.patches[1].get_facecolor()
    assert against[2] > against[0]
    assert for_[0] > for_[2]


def test_bars_without_names_keep_positions(tmp_path: Path) -> None:
    drawing = bars(np.sin(np.arange(50.0)), title="series")
    assert len(drawing.axes[0].patches) == 50
    save_figure(tmp_path / "a.png", drawing)
    save_figure(tmp_path / "empty.png", bars(np.zeros(4), list("abcd")))


def test_bars_need_a_name_per_value() -> None:
    with pytest.raises(InputError, match="2 names for 3 values"):
        bars(np.ones(3), ["a", "b"])
