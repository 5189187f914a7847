"""The explorer's page in a real browser, without a window: the distribution's Chromium, driven by playwright.

Where one of them is missing the tests are skipped, and fail where the environment variable CI is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from helpers_explorer import HOSTILE, add_attacks, make_evaluated_run

from mllmu.explorer.board import site_of
from mllmu.explorer.server import ExplorerServer
from mllmu.report.page import PageSection, write_small_page
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright

        assert CHROMIUM, "no chromium: install the distribution's package 'chromium'"
    except (ImportError, AssertionError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the explorer is not tested in a browser: {error}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExplorerServer]:
    folder = tmp_path_factory.mktemp("browsed")
    add_attacks(run := make_evaluated_run(folder / "run"))
    made = ExplorerServer(site_of([run], folder))
    Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def page(browser: Browser, server: ExplorerServer) -> Iterator[Page]:
    """A page at the explorer, which may load nothing from elsewhere and report no error."""
    with opened(browser, server) as found:
        yield found


class opened:  # noqa: N801 - a context
    """A page of its own at an address of the explorer; every error and every foreign request fails the test."""

    def __init__(self, browser: Browser, server: ExplorerServer, fragment: str = "", **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": WIDE, **context})
        self.faults: list[str] = []
        page = self.page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self.faults.extend([request.url] * (server.token not in request.url)))
        page.goto(f"{server.address}{fragment}")
        page.wait_for_selector("body[data-ready=yes]")

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.faults == []


def questions(page: Page) -> list[str]:
    return [str(button.get_attribute("data-id")) for button in page.query_selector_all("#list button")]


def settled(page: Page, count: int) -> None:
    """Wait until so many questions are listed."""
    from playwright.sync_api import expect

    expect(page.locator("#list li")).to_have_count(count, timeout=20_000)


def says(page: Page, selector: str, text: str) -> None:
    """Wait until an element holds a text."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=20_000)


def test_filters_narrow_the_list_and_stand_in_the_address(page: Page) -> None:
    settled(page, 6)
    assert page.title() == "run: explorer"
    page.select_option("#field-split", "forget")
    settled(page, 3)
    assert "split=forget" in page.url
    assert page.inner_text("#summary") == "3 of 6 questions"
    page.click("#models .model:nth-child(3) .stack button.garbled")
    settled(page, 1)
    assert questions(page) == ["forget/p1.cloze"]
    page.click("#chips button")
    settled(page, 3)
    page.fill("#words", "riga")
    settled(page, 1)
    page.click("#clear")
    settled(page, 6)
    page.go_back()
    settled(page, 1)


def test_a_condition_and_an_order_are_chosen(page: Page) -> None:
    page.select_option("#condition-model", "npo")
    page.select_option("#condition-is", "not")
    page.select_option("#condition-outcome", "right")
    page.click("#condition button")
    settled(page, 4)
    page.select_option("#contrast-a", "npo")
    page.select_option("#contrast-b", "retain_model")
    says(page, "#summary", "2 forgotten by npo, but not by retain_model, come first")
    assert questions(page)[:2] == ["forget/p1.cloze", "retain/p2.generation"]


def test_a_contrast_is_taken_back_by_either_of_its_models(page: Page) -> None:
    from playwright.sync_api import expect

    plain = questions(page)
    for side in ("#contrast-b", "#contrast-a"):
        page.select_option("#contrast-a", "npo")
        page.select_option("#contrast-b", "retain_model")
        says(page, "#summary", "come first")
        assert questions(page)[:2] == ["forget/p1.cloze", "retain/p2.generation"] and "forgotten=" in page.url
        page.select_option(side, "")
        expect(page.locator("#summary")).to_have_text("6 of 6 questions", timeout=20_000)
        assert questions(page) == plain and "forgotten=" not in page.url
        page.click("#models .model:first-child input")
        assert page.locator("#list li:first-child .dot").count() == 2
        page.click("#models .model:first-child input")


def test_ticking_a_model_while_another_order_is_read_goes_by_what_is_shown(page: Page) -> None:
    page.select_option("#contrast-a", "npo")
    page.select_option("#contrast-b", "retain_model")
    says(page, "#summary", "2 forgotten by npo, but not by retain_model, come first")
    page.evaluate("choose({ forgotten: '' }); drawList()")
    assert "2 forgotten by npo" in page.inner_text("#summary")
    page.evaluate("choose({ forgotten: 'retain_model:target' }); drawList()")
    assert "2 forgotten by npo" in page.inner_text("#summary")


def test_a_question_shows_replies_with_their_differences_and_no_text_becomes_markup(page: Page) -> None:
    page.click("[data-id='retain/p2.generation']")
    page.wait_for_selector("table.replies")
    assert page.inner_text("table.replies tbody tr:nth-child(3) td.said") == HOSTILE
    assert page.query_selector("table.replies img") is None and page.query_selector("#detail script") is None
    assert page.title() == "run: explorer"
    page.click("[data-id='forget/p1.classification']")
    page.wait_for_selector("#detail .put img")
    assert page.evaluate("document.querySelector('#detail .put img').naturalWidth") == 16
    assert page.inner_text("table.replies tbody tr:nth-child(2) mark") == "B"
    assert "option" in page.inner_text("table.replies tbody tr:nth-child(3) .why")
    assert "Ana <b>Silva</b>" in page.inner_text("#detail .crumbs")
    page.select_option("#reference", "retain_model")
    says(page, "table.replies tr.reference th", "retain_model")
    assert page.query_selector("table.replies tbody tr:nth-child(2) mark") is None


def test_replies_under_attack_stand_below_those_without(browser: Browser, server: ExplorerServer) -> None:
    for width, scheme in ((WIDE, "light"), (PHONE, "dark")):
        with opened(browser, server, "run/0/#q=forget%2Fp1.generation", viewport=width, color_scheme=scheme) as page:
            page.wait_for_selector("table.attacks")
            rows = page.query_selector_all("table.attacks tbody tr")
            assert [row.query_selector("th").inner_text() for row in rows] == ["Hints", "Hints", "Prefix"]  # type: ignore[union-attr]
            assert page.inner_text("table.attacks tr:nth-child(2) .reply-chip") == "1 of 2"
            assert page.inner_text("table.attacks tr:nth-child(2) td.said").startswith("In Riga, I think.")
            page.click("table.attacks tr:nth-child(2) summary")
            says(page, "table.attacks tr:nth-child(2) .turn:nth-of-type(2)", HOSTILE)
            assert page.query_selector("table.attacks img") is None and page.title() == "run: explorer"
            assert page.evaluate("document.querySelector('#detail').scrollWidth") <= width["width"]


def test_words_are_found_in_replies_and_a_long_list_is_filled_when_it_is_opened(
    browser: Browser, server: ExplorerServer
) -> None:
    with opened(browser, server, "run/0/#words=zxq") as page:
        settled(page, 1)
        assert questions(page) == ["forget/p1.cloze"]
        page.click("#clear")
        settled(page, 6)
        page.evaluate("about.fields.profile_id.push(...Array.from({ length: 99 }, (_, n) => `x${n}`)); drawFilters()")
        page.evaluate("refresh()")
        says(page, "#summary", "6 of 6")
        page.wait_for_function("document.querySelectorAll('#field-profile_id option').length === 1")
        page.focus("#field-profile_id")
        page.wait_for_function("document.querySelectorAll('#field-profile_id option').length === 102")
        page.select_option("#field-profile_id", "p2")
        settled(page, 3)
        page.focus("#words")
        page.evaluate("refresh()")
        page.wait_for_function("document.querySelectorAll('#field-profile_id option').length === 2")
        assert page.input_value("#field-profile_id") == "p2"


def test_a_deep_link_opens_what_it_was_copied_from(browser: Browser, server: ExplorerServer) -> None:
    link = "run/0/#split=retain&is=npo%3Aright&q=retain%2Fp2.cloze&hide=target"
    with opened(browser, server, link) as page:
        page.wait_for_selector("table.replies")
        assert questions(page) == ["retain/p2.classification", "retain/p2.cloze"]
        assert page.get_attribute("[data-id='retain/p2.cloze']", "aria-current") == "true"
        assert page.inner_text("table.replies tbody tr:first-child th") == "retain_model"


def test_keys_go_through_the_questions(page: Page) -> None:
    def current() -> str:
        return str(page.get_attribute("#list button[aria-current=true]", "data-id"))

    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_selector("table.replies")
    assert current() == "forget/p1.generation"
    page.keyboard.press("k")
    assert current() == "forget/p1.classification"
    page.keyboard.press("f")
    settled(page, 3)
    page.keyboard.press("c")
    settled(page, 6)
    page.keyboard.press("/")
    page.keyboard.type("lind j")
    settled(page, 1)
    assert "q=forget%2Fp1.classification" in page.url
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    settled(page, 6)
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail .empty")


def test_it_fits_a_phone_and_a_dark_room(browser: Browser, server: ExplorerServer) -> None:
    with opened(browser, server, viewport=PHONE, color_scheme="dark") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
        page.click("[data-id='forget/p1.generation']")
        page.wait_for_selector("table.replies", state="visible")
        assert page.evaluate("document.querySelector('#detail').scrollWidth") <= PHONE["width"]
        page.click("#detail .back")
        page.wait_for_selector("#detail", state="hidden")


def test_a_question_of_ones_own_is_put_to_the_models_that_are_shown(
    browser: Browser, server: ExplorerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def reply(_: object, content: Any) -> dict[str, Any]:
        sent.append(content)
        logp = {"logp": -1.5, "num_tokens": 3}
        return {"reply": HOSTILE, "finished": True, "person": "", "truth": None, "value": logp, "sentence": None}

    monkeypatch.setattr(server.site, "asks", {"api/ask": reply})
    with opened(browser, server, "run/0/#hide=npo&q=forget%2Fp1.classification") as page:
        page.wait_for_selector("table.replies")
        page.keyboard.press("a")
        assert page.input_value("#own-text") == "What does this person earn?"
        page.set_input_files("#own-file", {"name": "x.png", "mimeType": "image/png", "buffer": b"abc"})
        page.click("#asking button[type=submit]")
        says(page, "table.own tbody tr:nth-child(2) td:nth-child(3)", "-1.50 (3)")
        assert page.inner_text("table.own tbody tr:first-child td.said") == HOSTILE
        assert page.title() == "run: explorer"
    assert [(each["model"], each["image"], each["person"]) for each in sent] == [
        ("target", "YWJj", ""), ("retain_model", "YWJj", ""),
    ]  # fmt: skip


# --- reports, which may come from others

SPY = """<!doctype html><title>spy</title><table class="sortable"></table><script>
(async () => {
  const read = async (path) => { try { return (await (await fetch(path)).text()).slice(0, 9) } catch { return "" } };
  const seen = [await read("../api/questions"), await read("../image?path=images/p1_0.png"), await read("../")];
  const frame = document.createElement("iframe");
  frame.src = "../"; document.body.append(frame);
  await new Promise((done) => setTimeout(done, 300));
  try { seen.push(frame.contentDocument ? frame.contentDocument.body.textContent : "") } catch (e) { seen.push("") }
  const picture = new Image();
  picture.src = "../image?path=images/p1_0.png";
  await new Promise((done) => { picture.onload = picture.onerror = done; });
  seen.push(picture.naturalWidth ? "picture" : "");
  document.title = JSON.stringify([...seen, self.origin]);
})();
</script>"""


@pytest.fixture
def reported(tmp_path: Path) -> Iterator[ExplorerServer]:
    """A run with the report of a table that sorts and filters, and one that someone else has written."""
    run = make_evaluated_run(tmp_path / "run")
    cells = [("ga", "9.0"), ("npo", "45.0"), ("kl", "12.0")]
    rows = tuple(ReportRow(name, (ReportCell(text, shade=5),), "unlearned", 1) for name, text in cells * 3)
    table = ReportTable((ReportColumn("score"),), rows)
    links = {"numbers": "board.csv", "the explorer": "../"}
    write_small_page(run / "report/index.html", "t", "", [PageSection("s", table=table), PageSection("f", links=links)])
    (run / "report/board.csv").write_text("a,b\n")
    (run / "report/spy.html").write_text(SPY)
    made = ExplorerServer(site_of([run], tmp_path))
    Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_report_sorts_filters_and_links_but_reads_nothing_of_the_explorer(
    browser: Browser, reported: ExplorerServer
) -> None:
    from playwright.sync_api import expect

    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{reported.address}run/0/report/")
    names = "[...document.querySelectorAll('tr.unlearned:not([hidden]) th')].map((e) => e.dataset.name).join(' ')"
    page.click("th.num")
    assert page.evaluate(names) == "ga ga ga kl kl kl npo npo npo"
    page.fill("input[data-filter]", "kl")
    assert page.evaluate(names) == "kl kl kl"
    with page.expect_download() as download:
        page.click("a[href='board.csv']")
    assert download.value.suggested_filename == "board.csv"
    page.click("a[href='../']")
    page.wait_for_selector("body[data-ready=yes]")
    page.goto(f"{reported.address}run/0/report/spy.html")
    expect(page).to_have_title('["","","","","","null"]', timeout=20_000)
    page.close()
