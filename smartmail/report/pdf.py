"""The PDF, from the same page, by WeasyPrint (the extra `report`), which is imported only when it is wanted."""

import hashlib
import logging

from smartmail.report.document import html
from smartmail.report.model import MonthReport

PACKAGES = "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"
"""Debian's names of what WeasyPrint draws letters with."""


class PdfUnavailable(Exception):
    """This installation cannot make PDF. hint: what to install."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def pdf(report: MonthReport) -> bytes:
    """The report as PDF/UA. The same report on one installation is always the same octets: no time is in it, and the
    identifier is made of the page. Raises PdfUnavailable."""
    try:
        import weasyprint
    except ImportError as error:
        raise PdfUnavailable("WeasyPrint is not installed", "install smartmail[report]") from error
    except OSError as error:
        # It looks for its libraries when it is imported.
        raise PdfUnavailable(f"WeasyPrint lacks a library: {error}", f"apt-get install {PACKAGES}") from error
    page = html(report)
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    document = weasyprint.HTML(string=page, url_fetcher=weasyprint.urls.URLFetcher(allowed_protocols=()))
    octets = document.write_pdf(pdf_identifier=hashlib.sha256(page.encode()).digest()[:16], pdf_variant="pdf/ua-1")
    return bytes(octets)
