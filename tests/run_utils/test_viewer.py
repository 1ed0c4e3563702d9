"""The viewer over HTTP: every address, only what is asked for, and one clear answer to whatever is wrong."""

import http.client
import json
import re
import socket
import sqlite3
import threading
import xml.etree.ElementTree as ElementTree
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.synthetic_slide import DrawnSlide
from dataloader.slides import open_slide
from run_utils.outputs import store
from run_utils.viewer import __main__ as command
from run_utils.viewer.server import STATIC_DIR, STATIC_FILES, make_server
from run_utils.viewer.stored_nuclei import CELL, StoredNuclei
from tests.results import TYPES, ellipses, make_result

SIDE = 3000
SMALL = make_result(ellipses())


class Page:
    """Asks a server as a browser does."""

    def __init__(self, port):
        self.port = port

    def get(self, path, host=None, method="GET"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def json(self, path):
        answer, body = self.get(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        return json.loads(body)


def start(slide, path):
    server = make_server(slide, StoredNuclei(path))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def drawn():
    return DrawnSlide.draw(3000, SIDE)


@pytest.fixture(scope="module")
def nuclei(drawn):
    return drawn.result().whole_nuclei()


@pytest.fixture(scope="module")
def page(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "drawn.db"
    store.write(drawn.result(), path)
    server = start(drawn.slide(), path)
    yield Page(server.server_port)
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(tmp_path):
    """An ordinary image of unknown µm/px and its store, as paths."""
    image = tmp_path / "tile 1.png"
    cv2.imwrite(str(image), SMALL.read((0, 0, 90, 120))[..., ::-1])
    path = tmp_path / "tile 1.db"
    store.write(replace(SMALL, mpp=None), path)
    return image, path


def decode_contours(body):
    num, num_points = np.frombuffer(body, "<u4", 2)
    ids = np.frombuffer(body, "<u4", num, 8)
    starts = np.frombuffer(body, "<u4", num + 1, 8 + 4 * num)
    offset = 12 + 8 * num
    points = np.frombuffer(body, "<i2", 2 * num_points, offset).reshape(-1, 2) / 4
    types, shares = np.frombuffer(body, np.uint8, 2 * num, offset + 4 * num_points).reshape(2, -1)
    assert len(body) == offset + 4 * num_points + 2 * num
    return ids, starts, points, types, shares


def reaching_into(nuclei, top, left, side):
    box = nuclei.boxes_yxyx
    return (box[:, 2] > top) & (box[:, 3] > left) & (box[:, 0] < top + side) & (box[:, 1] < left + side)


def inside(nuclei, top, left, bottom, right):
    places = nuclei.centroids + 0.5
    return np.all((places >= (top, left)) & (places < (bottom, right)), axis=1)


def test_every_file_of_the_page_is_served(page):
    assert {path.name for path in STATIC_DIR.iterdir()} == set(STATIC_FILES)
    for name, content_type in STATIC_FILES.items():
        answer, body = page.get(f"/static/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
        assert body == (STATIC_DIR / name).read_bytes()
    assert page.get("/")[1] == (STATIC_DIR / "index.html").read_bytes()


def test_own_files_of_the_page_name_no_other_address():
    for name in set(STATIC_FILES) - {"openseadragon.min.js", "openseadragon.LICENSE.txt"}:
        assert not re.findall(r"https?:|wss?://|[\"'(=]//", (STATIC_DIR / name).read_text(encoding="utf-8"))


def test_every_answer_forbids_other_sources_and_keeping(page):
    for path in ("/", "/info", "/slide_files/9/0_0.jpg", "/nothing"):
        headers = page.get(path)[0].headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data: blob:")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_info_tells_slide_types_and_their_numbers(page, nuclei):
    info = page.json("/info")
    assert (info["width"], info["height"], info["mpp"]) == (SIDE, SIDE, 0.25)
    assert [kind["count"] for kind in info["types"]] == np.bincount(nuclei.types, minlength=5).tolist()
    assert info["types"][1] == {
        "name": "neoplastic",
        "colour": [255, 85, 0],
        "count": info["types"][1]["count"],
    }


def test_descriptor_tells_the_slides_size(page):
    answer, body = page.get("/slide.dzi")
    image = ElementTree.fromstring(body)
    assert answer.headers["Content-Type"] == "application/xml"
    assert image.attrib["TileSize"] == "510"
    assert image[0].attrib == {"Height": str(SIDE), "Width": str(SIDE)}


def test_tiles_show_the_slide_at_their_level(page, drawn):
    tile = cv2.imdecode(np.frombuffer(page.get("/slide_files/12/1_2.jpg")[1], np.uint8), cv2.IMREAD_COLOR)
    expected = drawn.slide().read((2 * 510 - 1, 509, 3 * 510 + 1, 2 * 510 + 1))
    assert tile.shape == (512, 512, 3)
    assert np.abs(tile[..., ::-1].astype(int) - expected).mean() < 8
    half = cv2.imdecode(np.frombuffer(page.get("/slide_files/11/0_2.jpg")[1], np.uint8), cv2.IMREAD_COLOR)
    assert half.shape == (1500 - 2 * 510 + 1, 511, 3)
    assert cv2.imdecode(np.frombuffer(page.get("/slide_files/0/0_0.jpg")[1], np.uint8), 1).shape == (1, 1, 3)


@pytest.mark.parametrize("shape", [(1, 1), (511, 90), (1021, 1533)])
def test_tiles_of_every_level_cover_an_odd_sized_image(shape, tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((*shape, 3), 90, np.uint8))
    store.write(replace(make_result(ellipses(shape, 0)), mpp=None), tmp_path / "image.db")
    server = start(open_slide(path, mpp=1.0), tmp_path / "image.db")
    page = Page(server.server_port)
    last = (max(shape) - 1).bit_length()
    for level in range(last + 1):
        height, width = (-(-side // 2 ** (last - level)) for side in shape)
        for row in range(-(-height // 510)):
            for column in range(-(-width // 510)):
                answer, body = page.get(f"/slide_files/{level}/{column}_{row}.jpg")
                tile = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
                expected = tuple(
                    min((index + 1) * 510 + 1, side) - max(0, index * 510 - 1)
                    for index, side in ((row, height), (column, width))
                )
                assert tile.shape[:2] == expected
                assert np.abs(tile.astype(int) - 90).max() < 4  # no white where a level's size was rounded
        assert page.get(f"/slide_files/{level}/{-(-width // 510)}_0.jpg")[0].status == 404
    server.shutdown()
    server.server_close()


def test_contours_of_a_cell_are_those_that_reach_into_it_and_no_others(page, nuclei):
    for column, row in ((0, 0), (1, 1), (2, 0)):
        ids, starts, points, types, shares = decode_contours(page.get(f"/contours/{column}_{row}")[1])
        there = reaching_into(nuclei, row * CELL, column * CELL, CELL)
        assert 0 < there.sum() < len(nuclei) / 4
        np.testing.assert_array_equal(np.sort(ids), nuclei.ids[there])
        np.testing.assert_array_equal(types, nuclei.types[ids - 1])
        np.testing.assert_allclose(shares / 255, nuclei.type_shares[ids - 1], atol=0.5 / 255 + 1e-6)
        for index, nucleus in enumerate(ids):
            ring = points[starts[index] : starts[index + 1]] + (column * CELL, row * CELL)
            box = nuclei.boxes_yxyx[nucleus - 1]
            assert (*ring.min(0)[::-1], *ring.max(0)[::-1]) == tuple(box)


def test_dots_of_a_cell_are_the_centroids_in_it(page, nuclei):
    for level, column, row in ((0, 1, 1), (1, 0, 0), (2, 0, 0)):
        body = page.get(f"/dots/{level}/{column}_{row}")[1]
        num = int(np.frombuffer(body, "<u4", 1)[0])
        side = CELL << level
        places = np.frombuffer(body, "<u2", 2 * num, 4).reshape(2, num)[::-1].T * (side / 65_536) + (
            row * side,
            column * side,
        )
        there = inside(nuclei, row * side, column * side, (row + 1) * side, (column + 1) * side)
        assert len(body) == 4 + 5 * num
        assert num == there.sum()
        expected = nuclei.centroids[there] + 0.5
        np.testing.assert_allclose(
            places[np.lexsort(np.rint(places).T)],
            expected[np.lexsort(np.rint(expected).T)],
            atol=side / 65_536,
        )


def test_an_answer_stays_small_however_many_nuclei_a_cell_holds(monkeypatch, page, nuclei):
    monkeypatch.setattr("run_utils.viewer.stored_nuclei.MAX_DOTS", 100)
    body = page.get("/dots/2/0_0")[1]
    num = int(np.frombuffer(body, "<u4", 1)[0])
    assert len(nuclei) > 1000
    assert 50 < num <= 100
    assert len(body) == 4 + 5 * num


def test_counts_are_those_of_the_box(page, nuclei):
    for box in (
        (0, 0, SIDE, SIDE),
        (500, 700, 1700, 2100),
        (-400, -400, 300, 200),
        (9, 9, 9, 9),
        (SIDE, 0, 9999, 50),
    ):
        expected = np.bincount(nuclei.types[inside(nuclei, *box)], minlength=5)
        assert page.json("/counts/" + "_".join(map(str, box))) == expected.tolist()


def test_density_counts_every_nucleus_once(page, nuclei):
    grid = page.json("/info")["density"]
    counts = np.frombuffer(page.get("/density")[1], "<u2").reshape(5, grid["height"], grid["width"])
    assert max(grid["height"], grid["width"]) <= 512
    np.testing.assert_array_equal(counts.sum((1, 2)), np.bincount(nuclei.types, minlength=5))
    y, x = ((nuclei.centroids[10] + 0.5) // grid["cell"]).astype(int)
    assert counts[nuclei.types[10], y, x] > 0


def test_measures_of_a_nucleus_are_in_micrometres(page, drawn, nuclei):
    measures = page.json("/nucleus/42")
    row = 41
    contour = nuclei.contour(row) - nuclei.boxes_yxyx[row, :2]
    mask = np.zeros(np.ptp(nuclei.boxes_yxyx[row].reshape(2, 2), axis=0), np.uint8)
    cv2.drawContours(mask, [contour[:, None, ::-1]], -1, 1, cv2.FILLED)
    assert measures["unit"] == "µm"
    assert measures["solidity"] <= 1
    assert mask.sum() * 0.25**2 == pytest.approx(
        measures["circularity"] * measures["perimeter"] ** 2 / (4 * np.pi)
    )
    assert measures["type"] == nuclei.types[row]
    assert measures["probabilities"] == pytest.approx(nuclei.type_probabilities[row].tolist(), abs=1e-5)
    assert measures["centroid_xy_level0"] == pytest.approx((nuclei.centroids[row, ::-1] + 0.5).tolist())
    assert measures["minor_axis"] <= measures["major_axis"] <= np.hypot(*mask.shape) * 0.25 * 1.2


def test_a_disc_has_a_discs_measures(tmp_path):
    y, x = np.mgrid[:200, :200]
    disc = ((y - 100) ** 2 + (x - 90) ** 2 <= 60**2).astype(np.int32)
    path = tmp_path / "disc.db"
    store.write(make_result(disc, mpp=0.5, level0_scale=2.0), path)
    measures = StoredNuclei(path).measures(1)
    assert measures["area"] == pytest.approx(np.pi * 30**2, rel=0.01)
    assert measures["perimeter"] == pytest.approx(2 * np.pi * 30, rel=0.02)
    assert measures["major_axis"] == pytest.approx(60, rel=0.01)
    assert measures["minor_axis"] == pytest.approx(60, rel=0.01)
    assert measures["centroid_xy_level0"] == [181.0, 201.0]


def test_holes_count_neither_in_the_store_nor_on_the_page(tmp_path):
    ring = np.zeros((60, 60), np.int32)
    ring[10:30, 10:30] = 1
    ring[15:20, 15:20] = 0
    store.write(make_result(ring, mpp=0.5), tmp_path / "ring.db")
    assert StoredNuclei(tmp_path / "ring.db").measures(1)["area"] == (400 - 25) * 0.25


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/../../outputs/store.py",
        "/../../../etc/passwd",
        "//etc/passwd",
        "/static/",
        "/static/missing.js",
        "/slide_files/13/0_0.jpg",
        "/slide_files/12/6_0.jpg",
        "/slide_files/12/0_6.jpg",
        "/slide_files/-1/0_0.jpg",
        "/slide_files/12/0_0.png",
        "/contours/3_0",
        "/contours/0_999999",
        "/contours/0_x",
        "/dots/0/3_0",
        "/dots/99/1_0",
        "/nucleus/999999",
        "/nucleus/1;drop",
        "/counts/1_2_3",
        "/favicon.ico",
    ],
)
def test_what_is_not_there_gets_one_line(page, path):
    answer, body = page.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert body.count(b"\n") == 1
    assert body.startswith(b"no")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "192.168.0.7:80",
        "[::2]",
        "evil@localhost",
        "[",
    ],
)
def test_a_request_under_another_name_is_refused(page, host):
    answer, body = page.get("/info", host=host)
    assert answer.status == 403
    assert b"is not this machine" in body


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machines_names_are_answered_whatever_the_port_that_is_forwarded(page, host):
    assert page.get("/info", host=host)[0].status == 200


def test_nothing_can_be_sent(page):
    for method in ("POST", "PUT", "DELETE"):
        assert page.get("/info", method=method)[0].status == 501


def test_only_this_machine_is_listened_to(page):
    with socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", page.port)) != 0


def test_a_slide_that_breaks_gives_one_line_and_the_next_request_is_answered(drawn, tmp_path, monkeypatch):
    from dataloader.slides import SlideError

    path = tmp_path / "drawn.db"
    store.write(drawn.result(), path)
    slide = drawn.slide()
    server = start(slide, path)
    page = Page(server.server_port)

    def fail(*_):
        raise SlideError("drawn slide: tile 7 cannot be decoded")

    monkeypatch.setattr(slide, "read", fail)
    answer, body = page.get("/slide_files/12/0_0.jpg")
    assert (answer.status, body) == (500, b"drawn slide: tile 7 cannot be decoded\n")
    assert page.get("/info")[0].status == 200
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("address", ["/contours/0_0", "/nucleus/1"])
@pytest.mark.parametrize(
    "change",
    ["DROP TABLE annotations", "UPDATE annotations SET geometry = x'00ff', properties = 'no JSON'"],
)
def test_a_store_that_breaks_gives_one_line_and_the_next_request_is_answered(small, address, change):
    image, path = small
    with command._open(image, "image") as slide:
        server = start(slide, path)
        page = Page(server.server_port)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(change)
            connection.commit()
        answer, body = page.get(address)
        assert answer.status == 500
        assert body.startswith(f"{path} cannot be read: ".encode())
        assert body.count(b"\n") == 1
        assert page.get("/info")[0].status == 200
        server.shutdown()
        server.server_close()


def test_many_threads_get_the_same_answers(page):
    expected = page.get("/contours/1_1")[1]
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(page.get("/contours/1_1")[1])) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 12


def test_the_store_is_opened_for_reading_only(small):
    path = small[1]
    path.chmod(0o444)
    before = path.read_bytes()
    nuclei = StoredNuclei(path)
    nuclei.contours(0, 0)
    nuclei.close()
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["tile 1.db", "tile 1.png"]


def test_a_store_without_types_or_nuclei_is_served(tmp_path):
    store.write(make_result(ellipses(), types=None), tmp_path / "plain.db")
    plain = StoredNuclei(tmp_path / "plain.db")
    assert [kind.name for kind in plain.types] == ["nucleus"]
    assert plain.counts() == [12]
    assert plain.measures(1)["probabilities"] is None
    store.write(make_result(ellipses(num_nuclei=0)), tmp_path / "empty.db")
    empty = StoredNuclei(tmp_path / "empty.db")
    assert empty.counts() == [0] * len(TYPES)
    assert empty.contours(0, 0) == bytes(12)
    assert empty.density()[1].sum() == 0


def run_command(arguments, capsys):
    status = command.main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


def test_files_that_cannot_be_shown_end_in_one_line(small, capsys, tmp_path):
    image, path = small
    (tmp_path / "text.db").write_text("no database" * 99)
    other = tmp_path / "other.db"
    store.write(make_result(ellipses((500, 400))), other)
    cases = {
        (image, tmp_path / "missing.db"): "missing.db is not there; write it with outputs=[store]",
        (image, tmp_path / "text.db"): "is not a store of nuclei",
        (tmp_path / "missing.svs", path): "missing.svs does not exist",
        (image, other): "has (90, 120) pixels (height, width), but the store is of a slide of (500, 400)",
    }
    for arguments, message in cases.items():
        status, text = run_command([*arguments, "--port", "0"], capsys)
        assert status == 2
        assert message in text
        assert text.count("\n") == 1


def test_the_reader_can_be_named(small, capsys, monkeypatch):
    monkeypatch.setattr("http.server.HTTPServer.serve_forever", lambda self: None)
    assert run_command([*small, "--port", "0", "--reader", "image"], capsys)[0] == 0
    status, text = run_command([*small, "--port", "0", "--reader", "tiff"], capsys)
    assert status == 2
    assert "tile 1.png cannot be read as a TIFF slide" in text
    with pytest.raises(SystemExit):
        run_command([*small, "--reader", "pillow"], capsys)


def test_a_taken_port_is_named(small, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, text = run_command([*small, "--port", port], capsys)
    assert (status, text) == (2, f"port {port} is taken; give another: --port 0 takes any free one\n")


def test_a_number_that_is_no_port_is_refused(small, capsys):
    with pytest.raises(SystemExit):
        command.main([*map(str, small), "--port", "70000"])
    assert "70000 is no port" in capsys.readouterr().err


def test_an_image_of_unknown_resolution_is_shown_in_pixels(small):
    image, path = small
    slide = command._open(Path(image), "auto")
    server = start(slide, path)
    page = Page(server.server_port)
    assert page.json("/info")["mpp"] is None
    assert page.json("/nucleus/1")["unit"] == "px"
    tile = cv2.imdecode(np.frombuffer(page.get("/slide_files/7/0_0.jpg")[1], np.uint8), cv2.IMREAD_COLOR)
    assert tile.shape == (90, 120, 3)
    server.shutdown()
    server.server_close()
