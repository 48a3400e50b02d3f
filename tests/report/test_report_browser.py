"""The page in a real browser: no error, no request, everything there, sorting works."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from required_tools import without

from sharpbench.report import Report, render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --hide-scrollbars"
).split()
# The browser has housekeeping of its own: kept from the network, and told from what a page asks for.
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
HOUSEKEEPING = re.compile(r"https?://[a-z0-9.-]+\.(?:google|googleapis|gstatic)\.com/")


@pytest.fixture(scope="module", autouse=True)
def _browser() -> None:
    if BROWSER is None:
        without("chromium", "no chromium on this machine: apt-get install chromium")


def browse(page: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """(the document after its script ran, what the browser logged)."""
    command = [
        str(BROWSER),
        *FLAGS,
        NO_NETWORK,
        f"--user-data-dir={folder / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, encoding="utf-8")
    return done.stdout, done.stderr


def requests(net_log: Path) -> list[str]:
    """Every address that the browser was asked for, without its own housekeeping."""
    found = re.findall(r'"url":\s*"((?:https?|wss?):[^"]*)"', net_log.read_text(errors="replace"))
    return [address for address in found if not HOUSEKEEPING.match(address)]


@pytest.fixture
def page(digits_report: Report) -> Path:
    return digits_report.page


def test_it_opens_without_an_error_or_a_request(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    document, said = browse(page, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert "CONSOLE" not in said
    assert document.count("<table") == 5
    assert document.count('role="img"') == 3
    # The script put a button into every heading of the four sortable tables.
    assert document.count('<button type="button">') > 40
    assert requests(log) == []


def test_a_click_on_a_heading_sorts(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    click = (
        "document.querySelectorAll('table.board')[0].tHead.rows[0].cells[1].querySelector('button').click();"
    )
    clicked = tmp_path / "clicked.html"
    clicked.write_text(text.replace("</body>", f"<script>{click}</script></body>"), encoding="utf-8")
    document, _ = browse(clicked, tmp_path, "--dump-dom")
    table = document[document.index("<table") : document.index("</table>")]
    names = re.findall(r'<td class="name[^"]*" data-sort="([^"]*)"', table)
    assert names == sorted(names)
    assert 'aria-sort="ascending"' in table


def test_no_foreign_script_runs(make_out, tmp_path: Path) -> None:
    hostile = "<script>document.title='owned'</script>"
    out, _ = make_out(optimizers=("sgd", hostile), noises=(0.0,), seeds=2, title="Mine", faults=False)
    page = render(out).page
    # Even a script that got past the escaping is stopped by the page's policy.
    forced = tmp_path / "forced.html"
    forced.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"{hostile}</body>"), encoding="utf-8"
    )
    for place in (page, forced):
        document, _ = browse(place, tmp_path, "--dump-dom")
        assert "<title>Mine</title>" in document


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (420, "light")])
def test_it_is_drawn(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    from PIL import Image

    picture = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    browse(page, tmp_path, f"--window-size={width},2400", f"--screenshot={picture}", *dark)
    with Image.open(picture) as drawn:
        assert drawn.width == width
        grey = drawn.convert("L")
        ground = grey.getpixel((2, 2))
        assert (ground < 60) == (scheme == "dark")
        assert len(set(grey.resize((64, 64)).tobytes())) > 20


def test_net_log_would_show_a_request(tmp_path: Path) -> None:
    """The check above can fail: a page that asks for a picture is caught."""
    asking, log = tmp_path / "asking.html", tmp_path / "net.json"
    asking.write_text('<img src="http://pictures.invalid/x.png">')
    browse(asking, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert set(requests(log)) == {"http://pictures.invalid/x.png"}
