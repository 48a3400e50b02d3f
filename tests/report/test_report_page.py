from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from sharpbench.report import Report, render
from sharpbench.report.summary import summarise

HOSTILE = "<script>document.title='owned'</script>"


class Tags(HTMLParser):
    """Collects (tag, attributes) and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(digits_report: Report) -> str:
    return digits_report.page.read_text(encoding="utf-8")


def test_it_has_what_a_reader_needs(page: str) -> None:
    found = Tags(page)
    ids = {attrs.get("id") for _, attrs in found.tags}
    assert {"summary", "leaderboard", "figures", "link", "lost", "definitions", "reproduce"} <= ids
    tables = [attrs for tag, attrs in found.tags if tag == "table"]
    assert len(tables) == 2 + 2 + 1
    for text in (
        "Digits with flipped labels",
        "34 of 36 planned runs finished (1 diverged, 1 missing).",
        "loss is not finite at epoch 2",
        "sharpbench run suite.toml",
        "label_noise = [0.0, 0.5]",
        "versions.torch",
        "did not reach the requested precision (see the intervals): log_determinant",
    ):
        assert text in found.text
    assert "nan" not in re.findall(r"[a-z]+", found.text.lower())


def test_it_is_self_contained(page: str) -> None:
    for tag, attrs in Tags(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            target = attrs.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_only_its_own_script_may_run(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attrs["content"] for tag, attrs in Tags(page).tags if attrs.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_whatever_users_write_stays_text(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", HOSTILE, '"><img src=x onerror=alert(1)>'), seeds=2, title=HOSTILE)
    plan = json.loads((out / "plan.json").read_text())
    plan |= {"reference": HOSTILE, "text": f"</pre>{HOSTILE}", "suite": HOSTILE}
    for entry in plan["runs"]:
        entry["condition"] = {f"a {HOSTILE}": f"--> {HOSTILE}"}
    plan["axes"] = [f"a {HOSTILE}"]
    (out / "plan.json").write_text(json.dumps(plan))
    first = out / "runs" / plan["runs"][0]["run_id"]
    (first / "provenance.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    last = out / "runs" / plan["runs"][-2]["run_id"]
    (last / "result.json").unlink()
    (last / "error.log").write_text(HOSTILE)
    found = Tags(render(out).page.read_text(encoding="utf-8"))
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [attrs for tag, attrs in found.tags if tag == "img" and attrs.get("src") == "x"]
    assert not [attrs for _, attrs in found.tags if any(name.startswith("on") for name in attrs)]
    assert found.text.count(HOSTILE) > 10


def test_sort_keys_are_numbers_or_empty(page: str) -> None:
    rows = re.findall(r"<tr><td.*?</tr>", page, flags=re.DOTALL)
    keys = [key for row in rows for key in re.findall(r'class="number[^"]*" data-sort="([^"]*)"', row)]
    assert len(keys) > 100
    assert all(key == "" or float(key) == float(key) for key in keys)


def test_summary_claims_only_what_is_significant(digits_report: Report) -> None:
    text = " ".join(digits_report.summary)
    for _, row in digits_report.leaderboard.iterrows():
        claim = f"{row['optimizer']} (+{row['difference']:.2f} points"
        assert (claim in text) == (row["verdict"] == "better")
    assert "No optimizer can be told from sgd at label_noise = 0 after correction." in text
    assert "not comparisons at equal compute" in text


def test_summary_without_a_baseline_or_a_link(make_out) -> None:
    out, _ = make_out(
        optimizers=("sam", "asam"), noises=(0.0,), seeds=2, faults=False, baseline="none of them"
    )
    report = render(out)
    text = " ".join(report.summary)
    assert "Without a baseline no difference is tested." in text
    assert "beat" not in text
    assert "Too few optimizers and conditions" in text
    assert summarise(report.frames, report.leaderboard, report.link) == report.summary
