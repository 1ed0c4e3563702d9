import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat

from dataloader.annotations.base import read_rgb
from dataloader.annotations.maps import load_mat, read_label_image
from run_utils.label_files import read_label_file, read_label_map, read_typed_centroids, typed_centroids

LABELS = np.array([[1, 1, 0, 0], [1, 1, 0, 2], [0, 0, 0, 2], [5, 0, 0, 2]], dtype=np.int32)
# centroids (y, x): 1 is a 2 x 2 square, 2 a column of three, 5 one pixel
CENTROIDS = [[0.5, 0.5], [2.0, 3.0], [3.0, 0.0]]


def save(path, **arrays):
    savemat(path, arrays)
    return path


@pytest.mark.parametrize("suffix", ["mat", "npy", "tif", "png"])
def test_a_label_map_is_the_same_from_every_format(tmp_path, suffix):
    label_map = LABELS.astype(np.uint16) * 13_000  # the highest id is 65,000
    path = tmp_path / f"image.{suffix}"
    writers = {
        "mat": lambda: savemat(path, {"inst_map": label_map}),
        "npy": lambda: np.save(path, label_map),
        "tif": lambda: tifffile.imwrite(path, label_map),
        "png": lambda: Image.fromarray(label_map).save(path),
    }
    writers[suffix]()
    read = read_label_map(path)
    assert read.dtype.kind in "iu"
    assert np.array_equal(read, label_map)


def test_ids_beyond_16_bits_survive(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", LABELS.astype(np.uint32) * 100_000)
    assert read_label_map(tmp_path / "image.tif").max() == 500_000


def test_whole_numbers_stored_as_double_are_ids(tmp_path):
    read = read_label_map(save(tmp_path / "image.mat", inst_map=LABELS.astype(np.float64)))
    assert read.dtype == np.int64
    assert np.array_equal(read, LABELS)


def test_the_first_channel_of_an_array_is_the_label_map(tmp_path):
    np.save(tmp_path / "image.npy", np.stack([LABELS, LABELS > 0], axis=-1))
    assert np.array_equal(read_label_map(tmp_path / "image.npy"), LABELS)


def test_types_go_with_ascending_ids_where_the_list_has_a_row_per_nucleus(tmp_path):
    read = read_typed_centroids(
        save(tmp_path / "a.mat", inst_map=LABELS, inst_type=np.array([[3], [1], [2]]))
    )
    assert read.types.tolist() == [3, 1, 2]
    assert read.centroids.tolist() == CENTROIDS


def test_types_go_with_ids_where_the_list_is_as_long_as_the_highest_id(tmp_path):
    read = read_typed_centroids(save(tmp_path / "a.mat", inst_map=LABELS, inst_type=np.arange(11, 16)))
    assert read.types.tolist() == [11, 12, 15]


def test_types_go_with_the_ids_that_the_file_names(tmp_path):
    path = save(
        tmp_path / "a.mat", inst_map=LABELS, inst_uid=np.array([[5], [1], [2]]), inst_type=np.array([7, 8, 9])
    )
    assert read_typed_centroids(path).types.tolist() == [8, 9, 7]


def test_a_nucleus_that_the_list_lacks_takes_the_majority_of_the_type_map(tmp_path):
    type_map = np.array([[4, 4, 0, 0], [2, 0, 0, 1], [0, 0, 0, 3], [0, 0, 0, 3]])
    listed = {"inst_map": LABELS, "inst_uid": np.array([2]), "inst_type": np.array([6])}
    assert read_typed_centroids(save(tmp_path / "a.mat", **listed, type_map=type_map)).types.tolist() == [
        4,
        6,
        -1,
    ]
    only_map = read_typed_centroids(save(tmp_path / "c.mat", inst_map=LABELS, type_map=type_map))
    assert only_map.types.tolist() == [4, 3, -1]


def test_arrays_give_centroids_and_majority_types():
    type_map = np.array([[4, 4, 0, 0], [2, 0, 0, 1], [0, 0, 0, 3], [-1, 0, 0, 3]])
    found = typed_centroids(LABELS, type_map)
    assert found.centroids.tolist() == CENTROIDS
    assert found.types.tolist() == [4, 3, -1]


def test_an_array_of_two_channels_holds_types(tmp_path):
    np.save(tmp_path / "image.npy", np.stack([LABELS, (LABELS > 0) * 2], axis=-1))
    assert read_typed_centroids(tmp_path / "image.npy").types.tolist() == [2, 2, 2]


def test_centroids_of_a_file_without_a_map_are_turned_from_xy_to_yx(tmp_path):
    path = save(
        tmp_path / "a.mat", inst_centroid=np.array([[10.0, 20.0], [30.0, 40.0]]), inst_type=np.array([1, 2])
    )
    read = read_typed_centroids(path)
    assert read.centroids.tolist() == [[20.0, 10.0], [40.0, 30.0]]
    assert read.types.tolist() == [1, 2]


def test_a_file_without_nuclei_gives_none(tmp_path):
    path = save(tmp_path / "a.mat", inst_map=np.zeros((4, 4)), inst_type=np.zeros((0, 1)))
    read = read_typed_centroids(path)
    assert read.centroids.shape == (0, 2)
    assert read.types.shape == (0,)


def test_bad_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.mat").write_text("not a mat file")
    (tmp_path / "text.png").write_text("not a png file")
    np.save(tmp_path / "half.npy", LABELS + 0.5)
    rgb = np.zeros((4, 4, 3), np.uint8)
    for name in ("text.mat", "text.png", "half.npy", "note.doc"):
        (tmp_path / "note.doc").touch()
        with pytest.raises(ValueError, match=name) as caught:
            read_label_map(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="has no inst_map"):
        read_label_map(save(tmp_path / "a.mat", other=rgb))
    with pytest.raises(ValueError, match="mode=instance"):
        read_typed_centroids(save(tmp_path / "b.mat", inst_map=LABELS))
    with pytest.raises(ValueError, match="lists 4 types for 3 nuclei"):
        read_typed_centroids(save(tmp_path / "c.mat", inst_map=LABELS, inst_type=np.array([1, 1, 1, 1])))
    with pytest.raises(FileNotFoundError, match="absent"):
        read_label_map(tmp_path / "absent.mat")


def test_ids_that_the_table_of_types_lacks_are_an_error_unless_a_type_map_has_them(tmp_path):
    path = save(tmp_path / "a.mat", inst_map=LABELS, inst_uid=np.array([2]), inst_type=np.array([6]))
    with pytest.raises(ValueError, match="a.mat: 2 of 3 ids of inst_map are not in inst_uid, such as 1"):
        read_typed_centroids(path)


def test_negative_ids_are_an_error_that_names_the_file(tmp_path):
    path = save(tmp_path / "a.mat", inst_map=np.where(LABELS == 2, -2, LABELS))
    with pytest.raises(ValueError, match="a.mat: the label map holds id -2; ids start at 1"):
        read_label_map(path)


def test_a_type_map_of_another_size_is_an_error(tmp_path):
    path = save(tmp_path / "a.mat", inst_map=LABELS, type_map=LABELS[:3])
    with pytest.raises(ValueError, match=r"type_map is \(3, 4\), inst_map \(4, 4\)"):
        read_label_file(path)


def test_a_label_file_gives_label_map_types_and_centroids_at_once(tmp_path):
    read = read_label_file(save(tmp_path / "a.mat", inst_map=LABELS, inst_type=np.array([3, 1, 2])))
    assert np.array_equal(read.label_map, LABELS)
    assert (read.ids.tolist(), read.types.tolist()) == ([1, 2, 5], [3, 1, 2])
    assert read.centroids.tolist() == CENTROIDS
    untyped = read_label_file(save(tmp_path / "b.mat", inst_map=LABELS))
    assert untyped.types is None and untyped.has_pixels


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4, 5), (4, 4, 0), (4,), (1, 4, 4, 2)])
def test_an_array_of_other_channels_is_no_label_map(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.int32))
    with pytest.raises(ValueError, match=r"a.npy.*\(H, W\)") as caught:
        read_label_map(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


def test_an_id_with_two_rows_of_types_is_refused(tmp_path):
    path = save(
        tmp_path / "a.mat", inst_map=LABELS, inst_uid=np.array([1, 2, 5, 2]), inst_type=np.array([1, 1, 1, 2])
    )
    with pytest.raises(ValueError, match="a.mat: inst_uid names id 2 more than once; keep one row"):
        read_label_file(path)


@pytest.mark.parametrize("wrong", [-7, 256, 3000])
def test_types_that_cannot_be_are_refused_where_they_are_read(tmp_path, wrong):
    listed = {"inst_type": np.array([1, 2, wrong])}
    arrays = {
        "list": {"inst_map": LABELS, **listed},
        "map": {"inst_map": LABELS, "type_map": np.where(LABELS == 2, wrong, 1)},
        "points": {"inst_centroid": np.ones((3, 2)), **listed},
    }
    for name, content in arrays.items():
        with pytest.raises(ValueError, match=f"{name}.mat holds type {wrong}; types are 0 .* 255, -1"):
            read_label_file(save(tmp_path / f"{name}.mat", **content))


@pytest.mark.parametrize("error", [ZeroDivisionError, IndexError, Image.DecompressionBombError, MemoryError])
def test_whatever_a_library_raises_for_a_damaged_file_is_one_line(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error("torn")

    monkeypatch.setattr("PIL.Image.open", fail)
    for module in ("run_utils.label_files", "dataloader.annotations.maps"):
        monkeypatch.setattr(f"{module}.loadmat", fail)
    for name in ("a.png", "a.mat"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} cannot be read as .*: torn; write it again"):
            read_label_file(tmp_path / name)
    for read in (read_rgb, read_label_image, lambda path: load_mat(path, ["inst_map"])):
        with pytest.raises(ValueError, match=r"a.png: not a whole .* \(torn\); fetch the file again"):
            read(tmp_path / "a.png")
