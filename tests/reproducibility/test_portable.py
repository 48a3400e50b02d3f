"""tests/portable.py runs every configuration and fails if one of them fails."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "portable.py"
_SPEC = importlib.util.spec_from_file_location("portable", SCRIPT)
assert _SPEC is not None
assert _SPEC.loader is not None
portable = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(portable)


@pytest.mark.parametrize("failing", [None, "avx2"])
def test_every_configuration_runs_and_one_failure_fails_all(
    failing: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, str]] = []

    def pretended(variables: dict[str, str], arguments: list[str]) -> tuple[int, str]:
        assert arguments == ["-x"]
        seen.append(variables)
        return int(variables["ATEN_CPU_CAPABILITY"] == failing), "9 passed"

    monkeypatch.setattr(portable, "closing_line", pretended)
    assert portable.main(["-x"]) == (failing is not None)
    found = {(variables["ATEN_CPU_CAPABILITY"], variables["OMP_NUM_THREADS"]) for variables in seen}
    assert found == {("default", "1"), ("avx2", "2")}
    assert all(variables["MKL_CBWR"] == "COMPATIBLE" for variables in seen)
    assert all(variables["ONEDNN_MAX_CPU_ISA"] == "AVX2" for variables in seen)
    assert capsys.readouterr().out.count("9 passed") == 2


def test_the_closing_line_is_pytests() -> None:
    file = str(SCRIPT.parent / "reproducibility" / "test_reproducibility.py")
    variables = portable.PROCESSORS["no vector instructions"]
    code, line = portable.closing_line(variables, [file, "-k", "instructions or processor"])
    assert code == 0
    assert "3 passed" in line
    code, line = portable.closing_line(variables, [file, "-k", "no_test_has_this_name"])
    assert code != 0
