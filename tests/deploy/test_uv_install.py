"""What uv is handed of pip's configuration, and what is shown of what it writes."""

import pytest

from deploy.uv_install import options_of, pip_settings, without_changes

LISTING = """\
:env:.find-links='/opt/wheels'
global.extra-index-url='https://one/simple https://two/simple'
global.find-links='/from/the/file'
global.index-url='https://mirror/simple'
install.index-url='https://nearer/simple'
download.index-url='https://elsewhere/simple'
"""
ALL_INDEXES = ["--index-strategy", "unsafe-best-match"]


def test_a_variable_beats_a_file_and_the_command_beats_what_is_global() -> None:
    assert pip_settings(LISTING) == {
        "find-links": "/opt/wheels",
        "extra-index-url": "https://one/simple https://two/simple",
        "index-url": "https://nearer/simple",
    }


def test_each_index_and_folder_becomes_an_option() -> None:
    options = options_of(pip_settings(LISTING))
    pairs = set(zip(options[::2], options[1::2], strict=True))
    assert pairs == {
        ("--index-strategy", "unsafe-best-match"),
        ("--default-index", "https://nearer/simple"),
        ("--index", "https://one/simple"),
        ("--index", "https://two/simple"),
        ("--find-links", "/opt/wheels"),
    }


def test_values_are_read_as_pip_writes_them() -> None:
    assert pip_settings("global.find-links='\\n/a\\n/b'\n") == {"find-links": "\n/a\n/b"}
    assert options_of({"find-links": "\n/a\n/b"})[2:] == [
        "--find-links",
        "/a",
        "--find-links",
        "/b",
    ]


@pytest.mark.parametrize(("value", "added"), [("true", ["--no-index"]), ("false", [])])
def test_no_index_is_handed_on(value: str, added: list[str]) -> None:
    assert options_of({"no-index": value}) == [*ALL_INDEXES, *added]


def test_without_configuration_uv_asks_its_own_index() -> None:
    assert options_of(pip_settings("")) == ALL_INDEXES


@pytest.mark.parametrize("size_bytes", [1, 3, 1000])
def test_the_list_of_packages_is_not_shown_however_it_is_cut(size_bytes: int) -> None:
    written = (
        b"Resolved 2 packages in 5ms\n\x1b[2mPreparing\x1b[0m (0/2)\r\x1b[2KPrepared 2 packages\r\n"
        b" \x1b[32m+\x1b[39m \x1b[1mray\x1b[0m==2.60.0\r\n - setuptools==65.5.0\n"
        b" Downloaded ray\nerror: no space left"
    )
    cut = [written[i : i + size_bytes] for i in range(0, len(written), size_bytes)]
    shown = b"".join(without_changes(cut))
    assert shown == (
        b"Resolved 2 packages in 5ms\n\x1b[2mPreparing\x1b[0m (0/2)\r\x1b[2KPrepared 2 packages\r\n"
        b" Downloaded ray\nerror: no space left"
    )
