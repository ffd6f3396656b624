"""restic's exclude patterns, as restic reads them (its own table of tests, and ours)."""

import pytest

from smartmail.core.left_out import left_out_by


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.go", "/foo/bar/test.go", True),
        ("*.c", "/foo/bar/test.go", False),
        ("sdk", "/foo/bar/sdk/test.go", True),
        ("sdk/", "/foo/bar/sdk/test.go", True),
        ("/foo", "/foo/bar", True),
        ("/foo/bar", "/foo", False),
        ("foo/bar", "/a/foo/bar/x", True),
        ("foo/bar", "/a/foo/x/bar", False),
        ("/foo/*/test.*", "/foo/bar/test.go", True),
        ("/foo/*/test.*", "/foo/bar/baz/test.go", False),
        ("/foo/**/test.*", "/foo/bar/baz/test.go", True),
        ("/foo/**/test.*", "/foo/test.go", True),
        ("/foo/**", "/foo/bar", True),
        ("**/tmp", "/a/tmp", True),
        ("te?t", "/a/test", True),
        ("te?t", "/a/te/t", False),
        ("te[rs]t", "/a/test", True),
        ("te[^rs]t", "/a/test", False),
        ("te[a-z]t", "/a/test", True),
        ("\\*", "/a/*", True),
        ("\\*", "/a/b", False),
        ("a+b", "/a+b", True),
        ("a+b", "/aab", False),
        ("/", "/anything", False),
        ("", "/anything", False),
        ("te[st", "/a/test", False),
        ("x", "/a\nb/x", True),
        ("*", "/a\nb", True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert left_out_by([pattern])(path) is expected


def test_the_last_one_that_fits_decides() -> None:
    left_out = left_out_by(["*.log", "!keep.log"])
    assert left_out("/a/x.log")
    assert not left_out("/a/keep.log")


def test_no_patterns_leave_nothing_out() -> None:
    assert not left_out_by([])("/a")
