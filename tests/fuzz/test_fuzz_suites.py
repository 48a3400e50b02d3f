"""A thousand damaged suite files: each is validated, or refused in one line."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

from bench_bad_suites import GOOD
from fuzz_calls import call
from fuzz_values import mutated_bytes, mutated_value, toml_text
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

FUZZ = settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@FUZZ
@given(st.data())
def test_bytes(data: st.DataObject) -> None:
    check(mutated_bytes(data.draw, GOOD.encode()))


@FUZZ
@given(st.data())
def test_values(data: st.DataObject) -> None:
    table = mutated_value(data.draw, tomllib.loads(GOOD))
    text = toml_text(table) if isinstance(table, dict) else str(table)
    check(text.encode("utf-8", "surrogatepass"))


def check(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(content)
        result = call("validate", path)
        if result.exit_code:
            assert "x.toml" in result.stderr
        else:
            assert "runs: " in result.stdout.splitlines()[-1]
