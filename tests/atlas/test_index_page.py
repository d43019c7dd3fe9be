"""The page of a release: complete, self-contained, of a sane size, the same for the same content; and in a browser."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urljoin

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from pipeline.report import AtlasEntry, Changes, Picture, ValueChange, binned, render_release, write_release
from pipeline.report.atlas import change_of, number_of, statistic_in_words
from pipeline.report.atlas_content import EDGES_UM
from tests.atlas.released import Released, call
from tests.atlas.synthetic import FULL, release
from tests.results import pages
from workflows.atlas.catalogue import open_catalogue
from workflows.atlas.release_folder import RESULT_FILES
from workflows.atlas.release_page import write_release_page
from workflows.atlas.root_lock import root_locked
from workflows.lock import BUSY

CHROMIUM = pages.BROWSER
ALL = ("all", "all")
VOID = pages.VOID | {"input", "ellipse"}
MEGABYTE = 10**6


class IndexPage(pages.Page):
    """A page with a script in it, which is no text that a reader sees."""

    def handle_data(self, data: str) -> None:
        if "script" not in self.open:
            super().handle_data(data)


@pytest.fixture(autouse=True)
def _void_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "VOID", VOID)


def local_links(page: IndexPage) -> list[str]:
    return [link for link in page.links if not link.startswith(("data:", "#"))]


@pytest.mark.parametrize("count", [1, 12, 378])
def test_the_page_shows_every_entry_and_stays_small(count: int) -> None:
    content = release(count)
    text = render_release(content)
    assert len(text) < 10_000 * count + 60_000
    page = IndexPage(text)
    rows = re.findall(r'<tr data-organ="(.*?)" data-outcome="(.*?)">', text)
    assert rows == [(entry.organ, entry.outcome) for entry in content.entries]
    for entry in content.entries:
        assert entry.dataset in page.text
    reports = {entry.report for entry in content.entries if entry.report}
    assert set(local_links(page)) == reports | set(content.files)
    assert render_release(release(count)) == text
    assert len(text) < 4 * MEGABYTE


def test_troubles_stand_on_top_and_the_same_one_is_said_once() -> None:
    content = release(200)
    page = IndexPage(render_release(content)).text
    waiting = [entry for entry in content.entries if entry.outcome == "waiting"]
    assert len(waiting) > 1
    assert page.count(FULL) == 1
    assert page.index("Failed and waiting") < page.index(FULL) < page.index("Changes since") < page.index("Results")
    failed = [entry for entry in content.entries if entry.outcome == "failed"]
    assert all(page.count(entry.reason) == 1 for entry in failed)
    assert page.index(failed[-1].reason) < page.index(FULL), "failures come before what waits"


def test_changes_are_told_with_their_reasons() -> None:
    text = IndexPage(render_release(release(12))).text
    assert "Changes since 2026-05-01T020000Z" in text
    assert "thickness, median 36.100\u202fµm → 38.400\u202fµm +6.37\u202f%" in text
    assert "sources.mask.content.digest: 1f2e3d4c… → 9a8b7c6d…" in text
    assert "and 8 more" in text
    assert "S-20-29_spleen thickness" in text
    nothing = replace(release(1), changes=Changes("2026-05-01T020000Z", 1, ()))
    assert "1 kept as it was. Nothing changed." in IndexPage(render_release(nothing)).text
    damaged = replace(release(1), changes=Changes("2026-05-01T020000Z", 1, (), ("2026-05-02T020000Z",)))
    passed_over = "Passed over, because its record or catalogue is missing or damaged: 2026-05-02T020000Z."
    assert passed_over in IndexPage(render_release(damaged)).text
    assert "There is no earlier release to compare with." in IndexPage(render_release(release(1))).text


def test_what_a_manifest_says_is_text_and_no_markup() -> None:
    evil = AtlasEntry("a&b", "thickness", "failed", reason="<script>alert(1)</script>", organ='"><b>')
    content = replace(release(1), title="<i>x</i>", entries=[evil])
    text = render_release(content)
    assert "<script>alert" not in text
    assert "<i>x</i>" not in text
    assert "<script>alert(1)</script>" in IndexPage(text).text


def test_an_entry_without_foreground_or_of_no_organ_is_no_trouble() -> None:
    plain = release(1).entries[0]
    nothing = {"mean": None, "quantiles": {"0.05": None, "0.5": None, "0.95": None}}
    empty = replace(plain, thickness=nothing, distribution=np.zeros(EDGES_UM.size - 1), thumbnail=None, organ="")
    text = IndexPage(render_release(replace(release(1), entries=[empty]))).text
    assert "no foreground" in text
    assert "Thickness by organ" not in text
    without = IndexPage(render_release(replace(release(1), entries=[replace(plain, organ="")]))).text
    assert "no organ stated" in without
    assert "not ended yet" in IndexPage(render_release(replace(release(1), ended=None))).text
    assert IndexPage(render_release(replace(release(1), entries=[]))).text


@pytest.mark.parametrize(
    ("value", "words", "change"),
    [
        (ValueChange(*ALL, "thickness_um.quantiles.0.25", "µm", 2, 1), "thickness, 25 % quantile", "−50.00\u202f%"),
        (ValueChange("3", "2", "dice", "1", 0.5, 0.50001), "Dice · label 2 · region 3", "+1.0\u202f×\u202f10⁻⁵"),
        (ValueChange("all", "all", "foreground_voxels", "voxels", 1e6, 1e6 + 1), "foreground voxels", "+1\u202fvoxels"),
        (ValueChange("all", "1", "hausdorff_um", "µm", 1.0, float("inf")), "Hausdorff · label 1", ""),
        (ValueChange("all", "all", "volume_um3", "µm³", None, 4.0), "volume", ""),
        (ValueChange("all", "all", "euler_number.reference", "1", 0.0, -3.0), "euler number, reference", "−3"),
    ],
)  # fmt: skip
def test_values_are_said_in_words(value: ValueChange, words: str, change: str) -> None:
    assert statistic_in_words(value) == words
    assert change_of(value) == change


def test_numbers_have_their_units() -> None:
    assert number_of(None, "µm") == "undefined"
    assert number_of(float("inf"), "µm") == "∞\u202fµm"
    assert number_of(-1234567.0, "1") == "−1\u202f234\u202f567"
    assert number_of(41.0, "(2 µm)²") == "41\u202f(2 µm)²"
    assert number_of(41.0, "µm") == "41.000\u202fµm"


lengths = nps.arrays(np.float64, st.integers(0, 30), elements=st.floats(1e-3, 1e9))


@given(lengths)
def test_bins_lose_no_volume(thickness_um: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    weights = np.arange(1.0, 1 + thickness_um.size)
    volume = binned(thickness_um, weights)
    assert volume.size == EDGES_UM.size - 1
    assert volume.sum() == weights.sum()
    inside = thickness_um[(thickness_um >= EDGES_UM[0]) & (thickness_um < EDGES_UM[-1])]
    for value in inside:
        place = int(np.flatnonzero(value >= EDGES_UM)[-1])
        assert volume[place] > 0


def test_a_real_release_has_a_page_whose_links_lead_somewhere(released: Released) -> None:
    path = released.release(released.second).page
    page = IndexPage(path.read_text("utf-8"))
    links = local_links(page)
    assert len(links) == 3 + 5  # tables, and a report of each entry that has a result
    for link in links:
        target = Path(unquote(urljoin(path.as_uri(), link)).removeprefix("file://"))
        assert target.is_file(), link
    entry = released.entry("ball/thickness")
    assert f"../../{entry.run}/report.html" in links
    assert "Test & organs" in page.text
    assert released.entry("gone/thickness").message in page.text
    assert "parameters.border: unknown → closed" in page.text
    assert "no foreground" in page.text
    front = released.root / "index.html"
    assert f'url=releases/{released.second}/index.html"' in front.read_text("utf-8")
    assert not list(path.parent.glob("*.partial"))


def test_thumbnails_show_the_map(released: Released) -> None:
    text = released.release(released.second).page.read_text("utf-8")
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
    assert [name for _, name in pictures] == [
        "Thickness of ball, plane xy", "Labels of ball", "Thickness of pair, plane xy", "Thickness of empty, plane xz",
        "Labels of new",
    ]  # fmt: skip
    ball, labels, _, empty, _ = (matplotlib.image.imread(io.BytesIO(base64.b64decode(data))) for data, _ in pictures)
    assert ball.shape[:2] == (36, 40)
    assert len(np.unique(ball.reshape(-1, ball.shape[-1]), axis=0)) > 5
    assert labels.shape[:2] == (36, 40)
    assert len(np.unique(labels.reshape(-1, labels.shape[-1]), axis=0)) == 3  # two labels on a background
    assert len(np.unique(empty.reshape(-1, empty.shape[-1]), axis=0)) == 1


def test_a_large_picture_of_a_report_becomes_a_thumbnail() -> None:
    image = io.BytesIO()
    matplotlib.image.imsave(image, np.random.default_rng(0).random((700, 1000, 3)), format="png")
    entry = replace(release(1).entries[0], thumbnail=Picture(image.getvalue(), "Labels"))
    text = render_release(replace(release(1), entries=[entry]))
    found = re.search(r'<img src="data:image/png;base64,([^"]+)" alt="Labels"', text)
    assert found
    assert matplotlib.image.imread(io.BytesIO(base64.b64decode(found[1]))).shape[:2] == (90, 128)


def test_the_report_is_made_again_by_a_command(released: Released) -> None:
    folder = released.release(released.second).path
    names = ("index.html", "catalogue.parquet", "catalogue.csv", "changes.csv")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    done = call("atlas", "report", released.atlas.manifest)
    assert done.code == 0, done
    told = [line[:11].strip() for line in done.out.splitlines()]
    assert told == ["page", "catalogue", "as CSV", "changes"]
    for name in names:
        assert str(folder / name) in done.out
        assert (folder / name).read_bytes() == before[name], name
    older = call("atlas", "report", released.atlas.manifest, "--release", released.first)
    assert str(released.release(released.first).page) in older.out
    assert f"releases/{released.second}/" in (released.root / "index.html").read_text("utf-8")
    wrong = call("atlas", "report", released.atlas.manifest, "--since", "1999").failure()
    assert "has no release 1999" in wrong


def test_a_root_without_a_release_says_so(tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text('name = "a"\noutput = "out"\n[[dataset]]\nname = "d"\nmask = "m.zarr"\n')
    assert "holds no release yet; make one with `voxcaliper atlas run" in call("atlas", "report", manifest).failure()


def test_a_damaged_version_is_a_trouble_and_hides_no_other(released: Released, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(released.root, root, symlinks=True)
    run = root / str(released.entry("ball/thickness").run)
    (run / "histogram.csv").write_text("nothing\n")
    text = IndexPage(write_release_page(root, released.second).read_text("utf-8")).text
    assert "Its published result cannot be read:" in text
    assert "histogram.csv is not the histogram of a run" in text
    assert "Thickness of empty" not in text
    assert "new statistics" in text


@pytest.mark.parametrize("name", ["ball/thickness", "ball/statistics", "pair/compare"])
def test_a_result_of_another_form_is_a_trouble_and_hides_no_other(
    released: Released, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(released.root, root, symlinks=True)
    entry = released.entry(name)
    (root / str(entry.run) / RESULT_FILES[entry.workflow]).write_text('{"voxel_size_um": [1, 1, 1], "labels": 3}')
    text = IndexPage(write_release_page(root, released.second).read_text("utf-8")).text
    assert text.count("holds no result of this version of voxcaliper") == 1
    table = open_catalogue(root)
    rows = table[(table["dataset"] == entry.dataset) & (table["workflow"] == entry.workflow)]
    assert len(rows) == 1
    assert "holds no result of this version of voxcaliper" in rows["reason"].iloc[0]
    assert len(table) > 100


def test_the_page_of_an_old_release_needs_no_version(released: Released, tmp_path: Path) -> None:
    """Its numbers are in its catalogue; what is no longer there has no link."""
    root = tmp_path / "root"
    shutil.copytree(released.root, root, symlinks=True)
    page = released.release(released.first).page
    whole = page.read_text("utf-8")
    shutil.rmtree(root / "entries")
    found = write_release_page(root, released.first).read_text("utf-8")
    assert set(local_links(IndexPage(found))) == {"catalogue.parquet", "catalogue.csv", "changes.csv"}
    numbers = re.compile(r'<td class="n" data-name=.*?</td>|<td class="measures".*?</td>')
    assert numbers.findall(found) == numbers.findall(whole)
    assert f"new. The version {released.first} is no longer kept." in IndexPage(found).text
    statuses = re.compile(r'data-outcome="(.*?)"')
    assert statuses.findall(found) == statuses.findall(whole)


def test_a_report_keeps_off_a_root_that_is_being_worked_on(released: Released) -> None:
    with root_locked(released.root):
        refused = call("atlas", "report", released.atlas.manifest)
    assert refused.code == BUSY
    assert f"{released.root} is being worked on by" in refused.failure()


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, *, width: int = 1400, javascript: bool = True) -> Page:
    page = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=javascript).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    assert not errors
    return page


def visible_names(page: Page) -> list[str]:
    rows: Locator = page.locator("#entries tbody tr:visible .what")
    return [text.split("\n")[0] for text in rows.all_inner_texts()]


no_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium, and there is none (make test-browser installs it)"
)


@pytest.mark.browser
@no_browser
def test_entries_are_filtered_and_sorted(browser: Browser, tmp_path: Path) -> None:
    content = release(60)
    write_release(tmp_path / "index.html", content)
    page = opened(browser, tmp_path / "index.html")
    assert visible_names(page) == [entry.dataset for entry in content.entries]
    page.select_option("#organ", "kidney")
    kidneys = [entry for entry in content.entries if entry.organ == "kidney"]
    assert visible_names(page) == [entry.dataset for entry in kidneys]
    assert page.locator("#shown").inner_text() == f"{len(kidneys)} of 60"
    page.select_option("#organ", "")
    page.select_option("#outcome", "failed")
    assert len(visible_names(page)) == sum(entry.outcome == "failed" for entry in content.entries)
    page.select_option("#outcome", "")
    page.fill("#text", "lung 2020-05")
    assert visible_names(page) == [
        entry.dataset for entry in content.entries if "2020-05" in entry.donor and entry.organ == "lung"
    ]
    page.fill("#text", "")
    means = {entry.dataset: float(entry.thickness["mean"]) for entry in content.entries if entry.thickness}
    with_mean = sorted(means, key=lambda name: means[name])
    without = [entry.dataset for entry in content.entries if entry.dataset not in means]
    page.get_by_role("button", name="Mean (µm)").click()
    assert visible_names(page) == with_mean + without
    page.get_by_role("button", name="Mean (µm)").click()
    assert visible_names(page) == with_mean[::-1] + without
    page.get_by_role("button", name="Organ").click()
    organs = page.locator("#entries tbody tr .place").all_inner_texts()
    assert organs == sorted(organs)


@pytest.mark.browser
@no_browser
def test_the_page_works_without_scripts(browser: Browser, tmp_path: Path) -> None:
    write_release(tmp_path / "index.html", release(12))
    page = opened(browser, tmp_path / "index.html", javascript=False)
    assert page.locator("#entries tbody tr:visible").count() == 12
    assert not page.locator("#filters").is_visible()


@pytest.mark.browser
@no_browser
@pytest.mark.parametrize("width", [380, 800, 1400])
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    write_release(tmp_path / "index.html", release(60))
    page = opened(browser, tmp_path / "index.html", width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
@no_browser
def test_a_reader_gets_from_the_front_page_to_a_report(browser: Browser, released: Released) -> None:
    page = opened(browser, released.root / "index.html")
    page.wait_for_url(f"**/releases/{released.second}/index.html")
    page.get_by_role("link", name="ball").first.click()
    assert "Local thickness of" in page.locator("h1").inner_text()
