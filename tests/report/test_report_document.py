"""The page and the PDF: self-contained, the same octets each time, and nobody's words become markup."""

import re
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reportworld import ALL_MAINTENANCE, AUTUMN, BREACHED, CLEAN, MANY, Scene, credits_of, report_on, window

from smartmail.core.month_record import difference
from smartmail.report import document
from smartmail.report.build import Reader, from_record
from smartmail.report.document import MOST_INCIDENTS, html
from smartmail.report.maps import NARROWEST, location_strips, minute_map
from smartmail.report.model import Audience, CreditLine, MonthReport, Revision
from smartmail.report.outputs import Form, write
from smartmail.report.pdf import PACKAGES, PdfUnavailable, pdf
from smartmail.report.selection import MOST_CREDITS

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=y>&{{7*7}}\x1b[31m\u202egpj.exe\x00"
VOID = {"meta", "br", "path", "rect"}


class Page(HTMLParser):
    """Tags in order, and what is wrong with their nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def evil_report(audience: Audience = Audience.OPERATOR) -> MonthReport:
    """People's words wherever there are some, all hostile."""
    record = window(replace(BREACHED, announcements=()), 100, 200, text=EVIL).record()
    evidence = record.evidence
    record = replace(record, evidence=replace(evidence, terms=replace(evidence.terms, version=EVIL)))
    lines = [replace(line, customer=EVIL, plan=EVIL) for line in credits_of(record, 3)]
    reader = Reader(audience, EVIL, lines, report_seen(record.findings.incidents[0].start))
    return from_record(record, report_on(CLEAN).clock.zone, Revision(1, 0), reader)


def report_seen(minute: int) -> tuple[object, ...]:
    from smartmail.report.model import Seen

    return (Seen(minute, "submission", "london", 18, EVIL),)


@pytest.mark.parametrize("audience", list(Audience))
def test_the_page_is_well_formed_and_loads_nothing(any_scene: Scene, audience: Audience) -> None:
    text = html(report_on(any_scene, audience))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "img", "form", "base"} & page.tags.keys()
    assert not [
        one for one in page.attributes if one[1].startswith("on") or one[1] in ("src", "href", "action", "style")
    ]
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert page.tags["h1"] == page.tags["title"] - 2 == page.tags["main"] == 1


def test_headings_tables_and_pictures_have_what_a_screen_reader_needs(any_scene: Scene) -> None:
    text = html(report_on(any_scene))
    page = Page(text)
    ids = [value for _, name, value in page.attributes if name == "id"]
    named = [one for _, name, value in page.attributes if name == "aria-labelledby" for one in value.split()]
    assert len(ids) == len(set(ids)) and set(named) <= set(ids)
    assert all(("th", "scope", scope) in page.attributes for scope in ("col", "row"))
    assert page.tags["th"] == sum(1 for tag, name, _ in page.attributes if (tag, name) == ("th", "scope"))
    assert 'lang="en-GB"' in text and text.count('role="img"') == text.count("<desc")


@pytest.mark.parametrize("audience", list(Audience))
def test_nobodys_words_become_markup(audience: Audience) -> None:
    text = html(evil_report(audience))
    page = Page(text)
    assert not {"script", "img"} & page.tags.keys()
    assert "onerror" not in {name for _, name, _ in page.attributes}
    assert "49" not in page.text or "{{7*7}}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    assert "&lt;script&gt;" in text


def test_words_that_are_no_unicode_can_still_be_written() -> None:
    report = replace(report_on(BREACHED, Audience.CUSTOMER), customer="\ud800x")
    assert "\ufffdx" in write(report, Form.HTML).decode()


def test_a_customers_report_holds_no_other_customer() -> None:
    text = html(report_on(BREACHED, Audience.CUSTOMER))
    assert "Müller &amp; Söhne GmbH" in text
    everybody = html(report_on(BREACHED, Audience.EVERYBODY))
    assert "Müller" not in everybody and "business-20" not in everybody and "421 not now" not in everybody


def test_a_customer_reads_what_its_subscription_was_paid_through_and_is_now() -> None:
    page = Page(html(report_on(BREACHED, Audience.CUSTOMER)))
    assert "1001 business-20 Extended by 1 month 1 Jan 2027 1 Feb 2027 42" in page.text
    assert "1002 business-20 Not extended: closed for abuse" in page.text


def test_an_outage_of_a_minute_can_be_seen() -> None:
    report = report_on(BREACHED)
    paths = dict(minute_map(report.days).rows[2].paths)
    assert f"h{NARROWEST}v" in paths["down"]


def test_the_map_has_a_row_for_each_day_as_long_as_it_is() -> None:
    drawn = minute_map(report_on(AUTUMN).days)
    notes = {row.label: row.note for row in drawn.rows if row.note}
    assert len(drawn.rows) == 31 and notes == {"Sun 25": "25 h"}
    spring = minute_map(report_on(Scene("2026-03")).days)
    assert [row.note for row in spring.rows if row.note] == ["23 h"]


def test_pictures_do_not_grow_with_the_number_of_outages() -> None:
    worst = Scene("2026-07", outages=tuple((minute, minute + 1, "mx") for minute in range(0, 44_640, 2)))
    report = report_on(worst)
    assert len(html(report)) < 300_000
    span = report.record.assessment.span
    assert location_strips(report.locations, report.days, 0, span.minutes).rows[0].paths[-1][0] == "down"


def test_hundreds_of_incidents_are_cut_with_a_count() -> None:
    report = report_on(MANY)
    page = Page(html(report))
    assert "440 incidents, 2,196 minutes down in all" in page.text
    assert f"These are the {MOST_INCIDENTS} longest. 380 more incidents, none longer than 8 min" in page.text


def test_a_hundred_thousand_credits_are_summed_up() -> None:
    line = CreditLine(1, "A", "basic", report_on(BREACHED).credits[0].reason)
    many = tuple(replace(line, subscription=number) for number in range(100_000))
    base = report_on(BREACHED)
    report = replace(base, credits=many, credit_counts={line.reason: len(many)})
    text = html(report)
    page = Page(text)
    assert "100,000" in page.text and f"The first {MOST_CREDITS} of them" in page.text
    assert len(text) < 100_000
    assert write(report, Form.CREDITS).count(b"\r\n") == 100_001


def test_a_restated_month_lists_its_changes() -> None:
    old, new = Scene("2026-10", silent=((100, 160),)).record(), Scene("2026-10").record()
    report = from_record(new, report_on(CLEAN).clock.zone, Revision(2, 0, difference(old, new)), Reader())
    assert "Thu 1 Oct, 01:40 02:40 60 unknown up" in Page(html(report)).text


def test_a_month_of_maintenance_shows_no_percentage() -> None:
    page = Page(html(report_on(ALL_MAINTENANCE)))
    assert "Nothing to measure" in page.text
    assert "Sun 1 to Sat 28" in page.text and "40,320 maintenance" in page.text


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.PDF])
def test_the_same_report_is_always_the_same_octets(any_scene: Scene, form: Form) -> None:
    assert write(report_on(any_scene), form) == write(report_on(any_scene), form)


MAKE = """
import sys; sys.path.insert(0, sys.argv[1])
from hashlib import sha256
from reportworld import BREACHED, report_on
from smartmail.report.outputs import Form, write
print([sha256(write(report_on(BREACHED), form)).hexdigest() for form in Form])
"""


def test_another_process_makes_the_same_octets() -> None:
    kit = str(Path(__file__).parents[1] / "kit")
    told = {
        subprocess.run(
            [sys.executable, "-c", MAKE, kit],
            env={"PYTHONHASHSEED": seed, "TZ": zone, "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert len(told) == 1


def test_the_pdf_is_tagged_and_has_no_time_in_it() -> None:
    octets = pdf(report_on(BREACHED, Audience.CUSTOMER))
    inside = octets
    for stream in re.finditer(rb"stream\n(.*?)\nendstream", octets, re.DOTALL):
        with suppress(zlib.error):
            inside += zlib.decompress(stream[1])
    assert octets.startswith(b"%PDF-")
    assert b"/StructTreeRoot" in inside and b"pdfuaid" in inside and b"en-GB" in inside
    assert b"/CreationDate" not in inside and b"/ModDate" not in inside
    assert octets == pdf(report_on(BREACHED, Audience.CUSTOMER))


def test_without_weasyprint_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    with pytest.raises(PdfUnavailable) as caught:
        pdf(report_on(CLEAN))
    assert caught.value.hint == "install smartmail[report]"


def test_without_its_libraries_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "weasyprint":
                raise OSError("cannot load library 'libpango-1.0-0'")

    monkeypatch.delitem(sys.modules, "weasyprint", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(PdfUnavailable) as caught:
        pdf(report_on(CLEAN))
    assert PACKAGES in caught.value.hint


def test_the_style_says_dark_light_print_and_paper() -> None:
    text = html(report_on(CLEAN))
    assert "prefers-color-scheme: dark" in text and "size: A4" in text and "@media print" in text
    assert document.cleaned(7) == 7


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_have_the_contrast_that_readers_need() -> None:
    """WCAG 2.2, 1.4.3: 4.5 for text; 1.4.11: 3 for what pictures say, and marks against what they lie on."""
    style = re.search(r"<style>(.*?)</style>", html(report_on(CLEAN)), re.DOTALL)
    assert style
    blocks = re.findall(r":root \{(.*?)\}", style[1], re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([a-z_]+): (#[0-9a-f]{6})", block))
        for text in ("ink", "soft", "accent", "met", "breached", "indeterminate", "no_commitment"):
            assert contrast(colours[text], colours["paper"]) >= 4.5, text
            assert contrast(colours[text], colours["panel"]) >= 4.5, text
        for mark in ("up", "down", "unknown", "maintenance"):
            assert contrast(colours[mark], colours["paper"]) >= 3, mark
        assert contrast(colours["down"], colours["up"]) >= 2
