"""Where mailboxes are: address -> path -> address, folder names, and paths that are meant to lead elsewhere."""

import glob
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.mailbox_place import Layout, LayoutError, decoded, encoded, folder_name
from smartmail.core.maildir import exclusions

USUAL = Layout("/srv/vmail/{domain}/{local}/Maildir")
ANNA = "/srv/vmail/example.com/anna/Maildir"
LAYOUTS = [
    USUAL,
    Layout("/srv/vmail/{domain}/{local}"),
    Layout("/{local}/mail.d/{domain}/x+(y)"),
    Layout("/var/mail[1]/{domain}/users/{local}/Maildir"),
]

names = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\x7f"), min_size=1, max_size=40)
locals_ = names.filter(lambda name: name not in (".", ".."))
domains = locals_.filter(lambda name: "@" not in name)
folder_parts = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="./\x7f"), min_size=1, max_size=12
)


class TestLayouts:
    @pytest.mark.parametrize(
        "template",
        [
            "",
            "/",
            "vmail/{domain}/{local}",
            "./{domain}/{local}",
            "/srv/../{domain}/{local}",
            "/srv/./{domain}/{local}",
            "/srv//{domain}/{local}",
            "/srv/{domain}/{local}/",
            "/srv\0/{domain}/{local}",
            "/srv/vmail",
            "/srv/{domain}",
            "/srv/{local}",
            "/srv/{domain}/{domain}/{local}",
            "/srv/{domain}/{local}/{local}",
            "/srv/{domain}-{local}",
            "/srv/{local}@{domain}",
            "/srv/x{domain}/{local}",
            "/srv/{domain}/{local}/{folder}",
            "/srv/{Domain}/{local}",
            "/srv/{domain}/{local}/a{b",
        ],
    )
    def test_what_is_no_layout(self, template: str) -> None:
        with pytest.raises(LayoutError, match=re.escape(repr(template))):
            Layout(template)

    @pytest.mark.parametrize("layout", LAYOUTS, ids=str)
    def test_a_mailbox_and_back(self, layout: Layout) -> None:
        path = layout.maildir("anna@example.com")
        assert layout.address(path) == "anna@example.com"
        assert layout.address(f"{path}/.Sent/cur/1.a:2,S") == "anna@example.com"
        assert layout.folder(path) == "INBOX"
        assert layout.folder(f"{path}/.Sent") == "Sent"

    @pytest.mark.parametrize("layout", LAYOUTS, ids=str)
    @given(local=locals_, domain=domains)
    def test_any_address_comes_back_from_its_path(self, layout: Layout, local: str, domain: str) -> None:
        address = f"{local}@{domain}"
        path = layout.maildir(address)
        assert layout.address(path) == address
        assert layout.address(f"{path}/cur/1") == address
        assert layout.maildir(layout.address(path)) == path

    @given(st.lists(st.sampled_from(["/", "/Maildir", ".", "..", "a", "@", "\0", "\n", "/vmail"]), max_size=12))
    def test_an_address_of_a_path_leads_to_that_path(self, pieces: list[str]) -> None:
        path = f"/srv/vmail/{''.join(pieces)}"
        address = USUAL.address(path)
        assert not address or f"{path}/".startswith(f"{USUAL.maildir(address)}/")

    def test_the_path_of_an_address(self) -> None:
        assert USUAL.maildir("anna@example.com") == ANNA
        assert USUAL.maildir("o'neil+x@xn--bcher-kva.example") == "/srv/vmail/xn--bcher-kva.example/o'neil+x/Maildir"
        assert USUAL.maildir("a@b@example.com") == "/srv/vmail/example.com/a@b/Maildir"

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "@",
            "anna",
            "anna@",
            "@example.com",
            "..@example.com",
            ".@example.com",
            "anna@..",
            "anna@.",
            "../../etc@example.com",
            "anna/../bob@example.com",
            "anna@example.com/../example.net",
            "anna@/etc",
            "an\0na@example.com",
            "anna@exam\0ple.com",
            "anna\n@example.com",
            "anna@\x7fexample.com",
            f"{'a' * 256}@example.com",
            f"{'ä' * 128}@example.com",
            f"anna@{'a' * 256}",
            "an\ud800na@example.com",
        ],
    )
    def test_path_trick_in_an_address_is_refused(self, address: str) -> None:
        with pytest.raises(LayoutError, match="is no address of a mailbox"):
            USUAL.maildir(address)

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "/srv/vmail",
            "/srv/vmail/example.com/anna",
            "/srv/vmail/example.com/anna/Maildir2",
            "/srv/vmail/example.com/anna/maildir",
            "/srv/vmail2/example.com/anna/Maildir",
            "srv/vmail/example.com/anna/Maildir",
            "/x/srv/vmail/example.com/anna/Maildir",
            "/srv/vmail/../anna/Maildir",
            "/srv/vmail/example.com/../Maildir",
            "/srv/vmail/./anna/Maildir",
            "/srv/vmail//anna/Maildir",
            "/srv/vmail/example.com/an\0na/Maildir",
            "/srv/vmail/b@example.com/anna/Maildir",
            f"/srv/vmail/{'x' * 256}/anna/Maildir",
            f"{ANNA}/../../bob/Maildir",
            f"{ANNA}/..",
        ],
    )
    def test_path_trick_is_nobodys_mailbox(self, path: str) -> None:
        assert (USUAL.address(path), USUAL.folder(path)) == ("", "")

    def test_octets_that_are_no_utf8_stay(self) -> None:
        path = b"/srv/vmail/example.com/ann\xe4/Maildir".decode("utf-8", "surrogateescape")
        assert USUAL.maildir(USUAL.address(path)) == path

    def test_the_pattern_is_one_for_restic_and_for_glob(self, tmp_path: Path) -> None:
        odd = tmp_path / "mail[1]*?\\x"
        for where in ("example.com/anna/Maildir", "example.org/bob/Maildir", "example.org/bob/Other"):
            (odd / where).mkdir(parents=True)
        layout = Layout(f"{odd}/{{domain}}/{{local}}/Maildir")
        assert layout.pattern().startswith(f"{tmp_path}/mail[[]1][*][?][\\\\]x/*/*/Maildir")
        found = {layout.address(path) for path in glob.glob(layout.pattern())}
        assert found == {"anna@example.com", "bob@example.org"}
        assert f"{USUAL.pattern()}/tmp" in exclusions([USUAL.pattern()])
        assert USUAL.pattern() == "/srv/vmail/*/*/Maildir"


class TestFolders:
    @pytest.mark.parametrize(
        ("below", "folder"),
        [
            ("", "INBOX"),
            ("/", "INBOX"),
            ("/.Sent", "Sent"),
            ("/.Archive.2026", "Archive/2026"),
            ("/.Entw&APw-rfe", "Entwürfe"),
            ("/.R&-D.2026", "R&D/2026"),
            ("/.Sent Items", "Sent Items"),
            # none of ours
            ("/cur", ""),
            ("/.Sent/cur", ""),
            ("/Sent", ""),
            ("/.", ""),
            ("/..", ""),
            ("/...", ""),
            ("/.a..b", ""),
            ("/.a.", ""),
        ],
    )
    def test_folder_of_a_path(self, below: str, folder: str) -> None:
        assert USUAL.folder(ANNA + below) == folder

    @pytest.mark.parametrize(
        ("folder", "name"),
        [
            ("", ""),
            ("INBOX", ""),
            ("inbox", ""),
            ("Sent", ".Sent"),
            ("Archive/2026", ".Archive.2026"),
            ("Archive.2026", ".Archive.2026"),
            ("Entwürfe", ".Entw&APw-rfe"),
            ("R&D", ".R&-D"),
            ("INBOX/Sub", ".INBOX.Sub"),
            ("cur", ".cur"),
            ("~", ".~"),
            ("a\nb", ".a&AAo-b"),
            ("x" * 255, f".{'x' * 255}"),
        ],
    )
    def test_name_of_a_folder_on_disk(self, folder: str, name: str) -> None:
        assert folder_name(folder) == name

    @pytest.mark.parametrize(
        "folder",
        [
            "..",
            ".",
            "/",
            "../..",
            "/etc",
            "Sent/",
            "Sent/../../bob",
            "a//b",
            "a..b",
            ".hidden",
            "a\0b",
        ],
    )
    def test_path_trick_in_a_folder_is_refused(self, folder: str) -> None:
        with pytest.raises(LayoutError, match="is no name of a folder"):
            folder_name(folder)

    @given(parts=st.lists(folder_parts, min_size=1, max_size=4))
    def test_any_folder_comes_back_from_its_name(self, parts: list[str]) -> None:
        folder = "/".join(parts)
        if folder.upper() == "INBOX":
            return
        name = folder_name(folder)
        assert "/" not in name and "\0" not in name and name.isascii()
        assert USUAL.folder(f"{ANNA}/{name}") == folder

    @given(name=st.text(st.sampled_from("&-,+.aAJjo0/\0\n\xe4\udce4"), max_size=12))
    def test_a_folder_that_is_there_always_has_a_name(self, name: str) -> None:
        folder = USUAL.folder(f"{ANNA}/.{name}")
        assert not folder or "/" not in folder_name(folder)


class TestModifiedUtf7:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            # RFC 3501, section 5.1.3
            ("~peter", "~peter"),
            ("mail", "mail"),
            ("&U,BTFw-", "台北"),
            ("&ZeVnLIqe-", "日本語"),
            ("&Jjo-!", "☺!"),
            ("&U,BTF2XlZyyKng-", "台北日本語"),
            ("Hi Mom -&Jjo--!", "Hi Mom -☺-!"),
            ("&-", "&"),
            ("R&-D", "R&D"),
            ("&2D3eAA-", "😀"),
            ("", ""),
        ],
    )
    def test_both_ways(self, name: str, text: str) -> None:
        assert decoded(name) == text
        assert encoded(text) == name

    @pytest.mark.parametrize(
        "name",
        [
            "&Jjo!",
            "&U,BTFw-&ZeVnLIqe-",
            "&AGE-",
            "&AAA-",
            "&AC8-",
            "&AC4ALg-",
            "R&D",
            "&",
            "&A-",
            "&AAA",
            "&2D0-",
            "&Jjo=-",
            "Entwürfe",
        ],
    )
    def test_what_is_none_stays_as_it_is(self, name: str) -> None:
        assert decoded(name) == name

    @given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=60))
    def test_any_text_comes_back(self, text: str) -> None:
        assert encoded(text).isascii()
        assert decoded(encoded(text)) == text

    @given(st.text(st.sampled_from("&-,+/aAJjo0"), max_size=12))
    def test_two_names_are_never_one_folder_but_by_their_own_text(self, name: str) -> None:
        assert decoded(name) == name or encoded(decoded(name)) == name


class TestALayoutOfOneDomain:
    """{domain=NAME}: a job of one customer's domain alone."""

    LAYOUT = Layout("/srv/vmail/{domain=example.com}/{local}/Maildir")

    def test_it_has_the_mailboxes_of_this_domain_and_no_other(self) -> None:
        assert self.LAYOUT.maildir("anna@example.com") == "/srv/vmail/example.com/anna/Maildir"
        assert self.LAYOUT.address("/srv/vmail/example.com/anna/Maildir/cur/1") == "anna@example.com"
        assert self.LAYOUT.address("/srv/vmail/example.org/anna/Maildir/cur/1") == ""
        assert self.LAYOUT.folder("/srv/vmail/example.com/anna/Maildir/.Sent") == "Sent"
        with pytest.raises(LayoutError, match="has no mailbox in"):
            self.LAYOUT.maildir("anna@example.org")

    def test_its_dots_are_dots(self) -> None:
        assert self.LAYOUT.address("/srv/vmail/exampleXcom/anna/Maildir") == ""
        assert self.LAYOUT.pattern() == "/srv/vmail/example.com/*/Maildir"
        assert self.LAYOUT.parts() == ("srv", "vmail", "example.com", None, "Maildir")
        assert self.LAYOUT.owned() == 2

    @pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "*"])
    def test_what_is_no_domain_is_refused(self, name: str) -> None:
        with pytest.raises(LayoutError):
            Layout(f"/srv/vmail/{{domain={name}}}/{{local}}/Maildir").maildir("anna@..")
