"""Suites: expansion to the promised runs, and one clear line for everything else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from bench_bad_suites import BAD, GOOD
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpbench.bench.plan import Plan
from sharpbench.bench.suite import KEYS, find_suite, parse_suite, read_suite, shipped_suites
from sharpbench.errors import InvalidInput
from sharpbench.optim.registry import OPTIMIZERS


def parse(text: str, extra: tuple[str, ...] = ()) -> Plan:
    return parse_suite(text, "x", "suites/x.toml", extra)


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_that_names_file_and_place(name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("suites/x.toml: ")
    assert message.isprintable()
    position = 0
    for part in said:
        assert part in message[position:], message
        position = message.index(part, position)


def test_the_good_suite_is_the_product() -> None:
    plan = parse(GOOD)
    assert (plan.suite, plan.title, plan.reference, plan.baseline) == ("x", "Good", "", "sgd")
    assert plan.text == GOOD
    assert plan.axes == ("label_noise",)
    assert [(run.condition["label_noise"], run.label, run.spec.seed) for run in plan.runs] == [
        (noise, label, seed) for noise in (0.0, 0.5) for label in ("sgd", "sam") for seed in (0, 1)
    ]
    for run in plan.runs:
        assert run.run_id == run.spec.id
        assert run.spec.task.label_noise == run.condition["label_noise"]
        assert run.spec.task.epochs == 2
        assert (run.spec.measure.hvps, run.spec.measure.examples) == (20, 64)
    assert {run.spec.optimizer.parameters.get("rho") for run in plan.runs} == {None, 0.1}
    assert len({run.run_id for run in plan.runs}) == len(plan.runs) == 8


def test_tables_are_united_and_duplicates_run_once() -> None:
    two = GOOD.replace("[matrix]", "[[matrix]]").replace(
        "[[optimizer]]",
        '[[matrix]]\nseed = [1, 2]\nmodel = ["mlp", "small_cnn"]\nlabel_noise = 0\n[[optimizer]]',
        1,
    )
    plan = parse(two)
    # (noise 0, .5) x seeds (0, 1) on the MLP, then seed 2 on the MLP and seeds 1, 2 on the CNN.
    assert len(plan.runs) == 2 * (4 + 1 + 2)
    assert plan.axes == ("label_noise", "model")
    assert plan.conditions == [
        {"label_noise": 0.0, "model": "mlp"},
        {"label_noise": 0.5, "model": "mlp"},
        {"label_noise": 0.0, "model": "small_cnn"},
    ]
    first = [run.spec.seed for run in plan.runs if run.label == "sgd" and run.condition == plan.conditions[0]]
    assert first == [0, 1, 2]


def test_a_value_that_is_the_default_is_no_axis_and_no_new_run() -> None:
    same = GOOD.replace("label_noise = [0, 0.5]", 'model = "mlp"\ntrain_fraction = [1, 1.0]')
    plan = parse(same)
    assert plan.axes == ("dataset", "model")
    assert plan.conditions == [{"dataset": "digits", "model": "mlp"}]
    assert {run.run_id for run in plan.runs} == {
        run.run_id for run in parse(GOOD).runs if run.condition == {"label_noise": 0.0}
    }


def test_lists_are_swept_and_named() -> None:
    text = GOOD.replace("rho = 0.1", 'rho = [0.05, 0.1]\nlr = [0.1, 0.2]\nsame_rng = true\nlabel = "S"')
    plan = parse(text)
    labels = ["S rho=0.05 lr=0.1", "S rho=0.05 lr=0.2", "S rho=0.1 lr=0.1", "S rho=0.1 lr=0.2"]
    assert plan.labels == ["sgd", *labels]
    last = plan.runs[-1].spec
    assert last.optimizer.parameters == {"rho": 0.1, "same_rng": True}
    assert (last.optimizer.name, last.optimizer.label, last.task.lr) == ("sam", labels[-1], 0.2)


def test_an_optimizers_own_values_are_in_its_runs_only() -> None:
    text = GOOD.replace("rho = 0.1", "lr = 1\nmomentum = 0\nweight_decay = 0.001\nepochs_multiplier = 2")
    plan = parse(text)
    sam = next(run.spec for run in plan.runs if run.label == "sam").task
    sgd = next(run.spec for run in plan.runs if run.label == "sgd").task
    assert (sam.lr, sam.momentum, sam.weight_decay, sam.epochs) == (1.0, 0.0, 0.001, 4)
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.epochs) == (0.1, 0.9, 0.0005, 2)


def test_the_baseline_may_be_any_label() -> None:
    assert (
        parse('baseline = "sam rho=0.1"\n' + GOOD.replace("rho = 0.1", "rho = [0.1]")).baseline
        == "sam rho=0.1"
    )


def test_an_integer_for_a_float_is_the_same_run() -> None:
    assert parse(GOOD.replace("[0, 0.5]", "[0.0, 0.5]")).runs == parse(GOOD).runs


def test_an_optimizer_from_the_command_line_joins_every_condition() -> None:
    plan = parse(GOOD, ("sharpbench.optim:VaSSO",))
    mine = [run for run in plan.runs if run.label == "VaSSO"]
    assert [(run.condition["label_noise"], run.spec.seed) for run in mine] == [
        (0, 0),
        (0, 1),
        (0.5, 0),
        (0.5, 1),
    ]
    assert plan.baseline == "sgd"
    assert [run for run in plan.runs if run.label != "VaSSO"] == list(parse(GOOD).runs)
    with pytest.raises(InvalidInput, match="--optimizer 'vassoo': .*did you mean 'vasso'"):
        parse(GOOD, ("vassoo",))
    with pytest.raises(InvalidInput, match="--optimizer 'sam': label 'sam' is already used"):
        parse(GOOD, ("sam",))


def test_shipped_suites() -> None:
    quick = read_suite("quickstart").plan
    assert len(quick.runs) == 36
    assert quick.labels == ["sgd", "sam", "asam", "infosam", "vasso", "frob_sam"]
    assert quick.conditions == [{"label_noise": 0.0}, {"label_noise": 0.5}]
    digits = read_suite("digits").plan
    assert digits.axes == ("model", "label_noise", "train_fraction", "epochs")
    assert len(digits.conditions) == 10
    names = {run.spec.optimizer.name for run in digits.runs}
    assert names == {name for name, entry in OPTIMIZERS.items() if not entry.needs_object}
    for name, path in shipped_suites().items():
        assert read_suite(path).plan == read_suite(name).plan


def test_a_file_goes_before_a_shipped_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text(GOOD)
    assert read_suite("quickstart").plan.title == "Good"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "unknown suite .*there is no file of that name"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8 text"),
        (lambda path: path.write_bytes(b"#" * 1_000_001), "too many for a suite"),
        (lambda path: path.write_text('a = "' + "[" * 10), "not valid TOML"),
        (lambda path: path.write_text("a = " + "[" * 100_000), "not valid TOML"),
    ],
)
def test_a_file_that_is_no_suite(tmp_path: Path, make, said: str) -> None:
    make(tmp_path / "x.toml")
    with pytest.raises(InvalidInput, match=said) as caught:
        read_suite(tmp_path / "x.toml")
    assert str(caught.value).isprintable()


def test_the_nearest_shipped_suite_is_named() -> None:
    with pytest.raises(InvalidInput, match="unknown suite 'quikstart'; did you mean 'quickstart'"):
        find_suite("quikstart")


SPOILS = [
    "nan", "-inf", "-1", "1e400", "[]", "[[]]", "[{}]", "{}", "{a = 1}", '""', '"\\u0000"', "1979-05-27",
    "true",
    "99999999999999999999999", "0x" + "f" * 5000, '"sam"', '["sgd", "sam"]', "[1, 'a', true]", "0.0", "-0.0",
    "'" + "x" * 500 + "'", '"a:b"', '":"', '"os:getcwd"', '"a b.c:d"',
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn) -> str:
    """A good suite with values exchanged, lines moved and characters lost."""
    lines = draw(st.sampled_from([GOOD, find_suite("quickstart").read_text()])).splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["value", "key", "drop", "swap", "insert", "cut"])):
            case "value":
                lines[at] = f"{lines[at].partition('=')[0]}= {draw(st.sampled_from(SPOILS))}"
            case "key":
                lines[at] = f"{draw(st.sampled_from([*KEYS, 'rho', 'seed', 'name', 'a b', '']))} = 1"
            case "drop":
                lines[at] = ""
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "insert":
                lines.insert(at, draw(st.text(max_size=20)))
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
    return "\n".join(lines)


def plan_or_line(text: str) -> Plan | str:
    try:
        return parse(text)
    except InvalidInput as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_a_spoiled_suite_is_a_plan_or_one_clear_line(text: str) -> None:
    plan = plan_or_line(text)
    if isinstance(plan, str):
        assert plan.startswith("suites/x.toml: ")
        assert "\n" not in plan
    else:
        assert plan.runs
        assert all(run.run_id == run.spec.id for run in plan.runs)
        assert Plan.model_validate_json(plan.dump()) == plan


@given(st.text())
def test_any_text_is_a_plan_or_one_clear_line(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


@given(st.text(min_size=1))
def test_a_strange_key_is_named_in_printable_letters(key: str) -> None:
    quoted = "".join(f"\\U{ord(c):08x}" for c in key if not 0xD800 <= ord(c) < 0xE000)
    text = GOOD.replace("rho = 0.1", f'"{quoted}" = []')
    key = tomllib.loads(text)["optimizer"][1].popitem()[0]
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert str(caught.value).isprintable() or key == "name"
