"""The report's page in a browser: widths, themes, keyboard, print. And what its style sheet promises, without one."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from builders import quick_config, run_quick

from raydistill.report.palette import DARK, LIGHT, MODELS

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """The page of a finished run."""
    run = run_quick(quick_config(tmp_path_factory.mktemp("page") / "run"))
    return run.stage_folder("report") / "report.html"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("needs a browser at /usr/bin/chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, page_path):
    """Open the page; whatever it says on the console or asks of the network is noted, and must be nothing."""
    pages, heard = [], []

    def start(width=1280, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if not is_local(request.url) else None)
        page.goto(page_path.as_uri())
        pages.append(page)
        return page

    yield start
    for page in pages:
        page.close()
    assert heard == []


def is_local(url):
    return url.startswith(("file:", "data:"))


def ground_of(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def to_rgb(colour):
    return f"rgb({', '.join(str(int(colour[place : place + 2], 16)) for place in (1, 3, 5))})"


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_is_wider_than_the_window(open_page, width):
    page = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll('main *')].filter(element => !element.closest('.scroll, .wide, svg')
           && !element.matches('.hidden, .hidden *, th:has(.hidden)')
           && element.getBoundingClientRect().right > width + 1).map(element => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []


def test_pictures_are_readable_on_a_phone(open_page):
    """Text of charts is at least 8 pixels high, and that of tables and paragraphs at least 12."""
    page = open_page(WIDTHS["phone"])
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('figure text, .zoom text')].map(
           text => parseFloat(getComputedStyle(text).fontSize) * Math.abs(text.getScreenCTM().d)
                   || parseFloat(getComputedStyle(text).fontSize) * Math.abs(text.getScreenCTM().b)))"""
    )
    assert smallest >= 8
    sizes = page.evaluate(
        """() => [...document.querySelectorAll('p, td, th, li, dt, dd, figcaption, caption, summary')].map(
           element => parseFloat(getComputedStyle(element).fontSize))"""
    )
    assert min(sizes) >= 12


@pytest.mark.parametrize(("scheme", "automatic"), [("light", LIGHT), ("dark", DARK)])
def test_the_theme_follows_the_system_and_the_reader(open_page, scheme, automatic):
    page = open_page(color_scheme=scheme)
    assert ground_of(page) == to_rgb(automatic["ground"])
    for choice, theme in (("Dark", DARK), ("Light", LIGHT), ("Auto", automatic)):
        page.get_by_text(choice, exact=True).click()
        assert ground_of(page) == to_rgb(theme["ground"])
        line = page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
        assert line == to_rgb(theme["ink"])


def test_the_keyboard_reaches_everything_in_order(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "verdict"
    page.evaluate("document.activeElement.blur()")
    places = []
    page.evaluate("document.querySelector('.skip').focus()")
    for _ in range(80):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => { const found = document.activeElement; return found === document.body ? null :
               [[...document.querySelectorAll('*')].indexOf(found), found.tagName] }"""
        )
        if place is None:
            break
        places.append(place)
    order = [place[0] for place in places]
    assert order == sorted(order)
    tags = [place[1] for place in places]
    assert tags.count("SUMMARY") == 4  # three groups and the settings
    assert {"INPUT", "A", "DIV"} <= set(tags)
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.evaluate("details => details.open")


def test_a_box_of_the_matrix_leads_to_its_group(open_page):
    page = open_page()
    page.evaluate("location.hash = '#group-1'")
    assert page.locator("#group-1").is_visible()
    assert not page.locator("#group-0").is_visible()


def test_landmarks_headings_and_names(open_page):
    page = open_page()
    for role in ("main", "navigation", "banner", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    levels = [
        int(level) for level in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName[1])")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert page.evaluate("[...document.querySelectorAll('img')].every(image => image.alt)")
    assert page.evaluate("[...document.querySelectorAll('table')].every(table => table.caption)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(head => head.scope)")


def test_it_prints_in_light_with_everything_open(open_page, tmp_path):
    page = open_page(color_scheme="dark")
    pdf = page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == LIGHT["ink"]
    for hidden in (".theme", "nav.contents", ".skip"):
        assert not page.locator(hidden).is_visible()
    heights = page.evaluate("[...document.querySelectorAll('details .inside')].map(part => part.offsetHeight)")
    assert len(heights) == 4
    assert min(heights) > 100


# colours, as the page's style sheet has them


def luminance(colour):
    """Relative luminance. Source: WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_enough_in_both_themes(page_path):
    """All text against every ground at least 4.5; the colours of models and of cells, which are marks, 3."""
    style = page_path.read_text()
    style = style[style.index("<style>") : style.index("</style>")]
    blocks = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r"\{[^{}]*--ground: [^{}]*", style)
    ]
    assert len(blocks) == 3  # light, dark by the system, dark by the reader
    assert blocks[1] == blocks[2] != blocks[0]
    for colours in blocks:
        for ground in ("ground", "panel"):
            for text in ("ink", "faint", "accent", "good", "bad"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
            for mark in ("heat", *(name.replace("_", "-") for name in MODELS)):
                assert contrast(colours[mark], colours[ground]) >= 3, (mark, ground)
        for name in MODELS:  # words inside the bars of the timeline
            assert contrast(colours["ground"], colours[name.replace("_", "-")]) >= 4.5, name
