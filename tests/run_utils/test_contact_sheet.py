import cv2
import numpy as np
import pytest
import torch

from models.hovernet.targets import make_targets
from run_utils.training.contact_sheet import (
    FRAME,
    HIGHEST,
    LOWEST,
    OUTLINE,
    PANEL_SIZE,
    draw_contact_sheet,
    fit_panel,
    hv_to_rgb,
    outline,
    stack_panels,
    types_to_rgb,
    write_contact_sheet,
)

NAMES = ("background", "round", "long")
COLOURS = ((255, 255, 255), (200, 30, 30), (30, 30, 200))


@pytest.fixture
def batch():
    """Two grey patches of 64 pixels with two nuclei each, and targets of their central 40."""
    images = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    label_map = torch.zeros((2, 64, 64), dtype=torch.int32)
    label_map[:, 20:30, 20:30] = 1
    label_map[:, 34:40, 30:50] = 2
    return images, make_targets(label_map, label_map, output_size=40)


def contains(sheet, colour):
    return (sheet == np.array(colour)).all(axis=-1).any()


def panel(sheet, row, column):
    """Cut a panel out: a heading of 24 pixels lies above the rows, gaps of 8 between panels."""
    first_row, gap = 24, 8
    top, left = first_row + row * (PANEL_SIZE + gap), gap + column * (PANEL_SIZE + gap)
    return sheet[top : top + PANEL_SIZE, left : left + PANEL_SIZE]


def test_a_sheet_has_a_row_for_each_patch_and_a_column_for_each_panel(batch):
    images, targets = batch
    sheet = draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] >= 2 * PANEL_SIZE
    assert 5 * PANEL_SIZE < sheet.shape[1] < 6 * PANEL_SIZE


def test_without_types_their_panel_is_left_out(batch):
    images, targets = batch
    sheet = draw_contact_sheet(images, targets._replace(types=None))
    assert 4 * PANEL_SIZE < sheet.shape[1] < 5 * PANEL_SIZE


def test_each_panel_shows_its_own_map(batch):
    images, targets = batch
    sheet = draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS)
    patch, nuclei, horizontal, vertical, types = (panel(sheet, 1, column) for column in range(5))
    assert contains(patch, FRAME)
    assert contains(nuclei, OUTLINE)
    assert np.array_equal(horizontal, fit_panel(hv_to_rgb(targets.hv[1, 0].numpy())))
    assert np.array_equal(vertical, fit_panel(hv_to_rgb(targets.hv[1, 1].numpy())))
    assert np.array_equal(types, fit_panel(types_to_rgb(targets.types[1].numpy(), COLOURS)))


def test_earlier_stages_of_a_patch_stand_before_it(batch):
    images, targets = batch
    before = [("patch", 255 - images), ("normalised", images // 2)]
    sheet = draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS, before=before)
    for column, (_, stage) in enumerate(before):
        assert np.array_equal(panel(sheet, 1, column), fit_panel(stage[1].permute(1, 2, 0).numpy()))
    assert contains(panel(sheet, 1, 2), FRAME)


def test_the_frame_surrounds_the_output_area(batch):
    images, targets = batch
    patch = panel(draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS), 0, 0)
    rows, columns = np.nonzero((patch == np.array(FRAME)).all(axis=-1))
    start, stop = 12 * PANEL_SIZE // 64, 52 * PANEL_SIZE // 64  # 12 of 64 pixels are lost on each side
    for positions in (rows, columns):
        assert abs(positions.min() - start) <= 2
        assert abs(positions.max() - stop) <= 2


def test_the_legend_holds_the_colour_of_each_type(batch):
    images, targets = batch
    sheet = draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS)
    legend = sheet[24 + 2 * (PANEL_SIZE + 8) :]
    for colour in (*COLOURS[1:], FRAME, LOWEST, HIGHEST):
        assert contains(legend, colour)


def test_a_legend_wider_than_the_sheet_takes_more_lines(batch):
    images, targets = batch
    names = ["background", *(f"a long name of type {index}" for index in range(20))]
    colours = [(index, 0, 99) for index in range(21)]
    sheet = draw_contact_sheet(images, targets, type_names=names, type_colours=colours)
    assert all(contains(sheet, colour) for colour in colours[1:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_patch_without_nuclei_is_drawn(memory_format):
    images = torch.zeros((1, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=memory_format)
    targets = make_targets(torch.zeros((1, 32, 32), dtype=torch.int32))
    assert not contains(draw_contact_sheet(images, targets), OUTLINE)


def test_hv_is_blue_below_white_at_and_red_above_zero():
    colours = hv_to_rgb(np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]], dtype=np.float32))[0]
    assert tuple(colours[0]) == LOWEST
    assert tuple(colours[2]) == (255, 255, 255)
    assert tuple(colours[4]) == HIGHEST
    for between, end in ((colours[1], LOWEST), (colours[3], HIGHEST)):
        assert np.abs(between - (255 + np.array(end)) / 2).max() <= 0.5


def test_hv_beyond_its_range_has_the_colour_of_the_end():
    assert [tuple(colour) for colour in hv_to_rgb(np.array([[-7.0, 7.0]]))[0]] == [LOWEST, HIGHEST]


def test_types_have_their_colours():
    colours = types_to_rgb(np.array([[0, 2], [1, 1]]), COLOURS)
    assert colours.tolist() == [[list(COLOURS[0]), list(COLOURS[2])], [list(COLOURS[1])] * 2]


@pytest.mark.parametrize("stray", [-1, 3])
def test_a_type_without_a_colour_is_refused(stray):
    with pytest.raises(ValueError, match="3 colours"):
        types_to_rgb(np.array([[stray]]), COLOURS)


def test_an_outline_lies_a_pixel_on_either_side_of_the_edge():
    label_map = np.zeros((9, 9), dtype=np.int32)
    label_map[2:7, 2:7] = 1
    is_line = (outline(np.zeros((9, 9, 3), np.uint8), label_map) == OUTLINE).all(axis=-1)
    expected = np.zeros((9, 9), dtype=bool)
    expected[1:8, 2:7] = expected[2:7, 1:8] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(is_line, expected)


def test_nuclei_that_touch_are_parted_by_an_outline_and_the_image_is_left_as_it_was():
    label_map = np.ones((6, 8), dtype=np.int32)
    label_map[:, 4:] = 2
    image = np.zeros((6, 8, 3), np.uint8)
    is_line = (outline(image, label_map, (9, 8, 7)) == (9, 8, 7)).all(axis=-1)
    assert np.array_equal(is_line, np.tile(np.isin(np.arange(8), (3, 4)), (6, 1)))
    assert not image.any()


def test_panels_of_any_size_fill_their_place():
    small, large = np.zeros((10, 10, 3), np.uint8), np.zeros((600, 600, 3), np.uint8)
    sheet = stack_panels([[small, large]], ["small", "large"])
    assert not panel(sheet, 0, 0).any()
    assert not panel(sheet, 0, 1).any()


def test_a_written_sheet_is_the_drawn_one_and_nothing_else_is_left(batch, tmp_path):
    images, targets = batch
    path = tmp_path / "sheet.png"
    path.write_text("an older sheet")
    write_contact_sheet(path, images, targets, type_names=NAMES, type_colours=COLOURS)
    drawn = draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS)
    assert np.array_equal(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), drawn)
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_batch_is_refused(batch):
    images, targets = batch
    with pytest.raises(ValueError, match="at least one patch"):
        draw_contact_sheet(images[:0], targets)


def test_maps_larger_than_the_patches_are_refused(batch):
    images, targets = batch
    with pytest.raises(ValueError, match="central part"):
        draw_contact_sheet(images[..., :20, :20], targets)


def test_names_and_colours_must_match(batch):
    images, targets = batch
    with pytest.raises(ValueError, match="type_colours"):
        draw_contact_sheet(images, targets, type_names=NAMES, type_colours=COLOURS[:2])
