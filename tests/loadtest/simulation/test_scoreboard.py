"""The scoreboard's arithmetic, the folder of traces, what is kept, and the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import UserError
from loadtest.simulation.figures import RunFigures
from loadtest.simulation.kept_runs import KeptRuns
from loadtest.simulation.scoreboard import CaseRows, Played, row, sentences, summary, table
from loadtest.simulation.trace_folder import folder_case, settings_of, trace_files
from serve_app.core.tiers import Tier

pytestmark = pytest.mark.filterwarnings(
    # Ray 2.60 itself gives pydantic this keyword when its config is imported.
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


def figures(goodput: float = 0.9, gpu_hours: float = 2.0, **other: Any) -> RunFigures:
    known: dict[str, Any] = {
        "attainment": 1.0, "cost_usd": 1.0, "scale_actions": 3, "requests": 100, "refused": 0,
        "lent": 0, "goodput_by_tier": {Tier.CHAT: goodput}, "ttft_p95_s": {Tier.CHAT: 0.5},
        "tpot_p95_s": {Tier.CHAT: 0.05},
    }  # fmt: skip
    return RunFigures(goodput=goodput, gpu_hours=gpu_hours, **{**known, **other})


def a_case(ours: RunFigures, constant: int = 4, **others: RunFigures) -> CaseRows:
    found = {"ours": ours, "constant": figures(0.9, 3.0), **others}
    settings = {"constant": {"chat": constant}}
    rows = {
        policy: row(Played(policy, own, settings.get(policy, {}), 1, 0.9), ours)
        for policy, own in found.items()
    }
    return CaseRows(gpus={"T4": 8}, initial={"chat": 1}, requests=100, duration_s=60.0, rows=rows)


def test_at_equal_goodput_gpu_hours_are_compared_and_else_those_of_a_good_request() -> None:
    ours = figures(0.9, 2.0)
    equal = row(Played("ray-default", figures(0.8995, 3.0), {}, 1, 0.899), ours)
    assert (equal.against_ours, equal.equal_goodput) == (pytest.approx(0.5), True)
    short = row(Played("ray-default", figures(0.45, 2.0), {}, 1, 0.899), ours)
    assert (short.against_ours, short.equal_goodput) == (pytest.approx(1.0), False)
    nothing = row(Played("ray-default", figures(0.0, 2.0), {}, 1, 0.899), ours)
    assert nothing.against_ours is None


def test_the_summary_is_over_the_cases_that_it_names() -> None:
    ray = "ray-default"
    cases = {
        "large": a_case(figures(0.9, 2.0), 3, **{ray: figures(0.9, 4.0)}),
        "larger": a_case(figures(0.9, 2.0), 9, **{ray: figures(0.9, 1.0)}),
        "small": a_case(figures(0.9, 2.0), 2, **{ray: figures(0.9, 2.0)}),
    }
    found = summary(cases)
    assert found.ray_large is not None
    assert found.ray is not None
    assert (found.ray_large.cases, found.ray.cases) == (2, 3)
    assert found.ray_large.mean == pytest.approx(1.0)
    assert (found.ray_large.worst, found.ray_large.worst_case) == (pytest.approx(2.0), "larger")
    assert found.plan is None
    assert found.scale_actions == {"ours": 9, "constant": 9, ray: 9}
    assert "at worst +100.0% (larger)" in sentences(found)[0]


def test_a_plan_that_the_search_did_not_find_is_no_win() -> None:
    found = summary({"one": a_case(figures(0.9, 2.0), 4, clairvoyant=figures(0.9, 5.0))})
    assert found.plan is not None
    assert found.plan.mean == 1.0


def test_the_table_has_a_line_for_each_law_and_marks_what_is_not_equal() -> None:
    case = a_case(figures(0.9, 2.0), 4, **{"ray-default": figures(0.5, 2.0, cost_usd=None)})
    lines = table({"one": case}).splitlines()
    assert len(lines) == 2 + 3
    (ray,) = [line for line in lines if "ray-default" in line]
    assert "+80% *" in ray
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_what_was_played_is_not_played_again_unless_the_code_has_changed(tmp_path: Path) -> None:
    played: list[str] = []

    def play() -> RunFigures:
        played.append("once more")
        return figures(0.5 + len(played) / 100)

    def kept(policy: str, code: str, *, trusted: bool = False, on: str = "this") -> float:
        runs = KeptRuns(tmp_path, on, code, trusted)
        found = runs.keep(policy, {"target": 2}, play)
        assert found is not None
        return found.goodput

    assert kept("ray-default", "a") == kept("ray-default", "a") == 0.51
    assert kept("ray-default", "b") == 0.52
    assert kept("ray-default", "c", trusted=True) == 0.52
    assert kept("ray-default", "b", on="another trace") == 0.53
    assert kept("ours", "b") == 0.54
    assert kept("ours", "c", trusted=True) == 0.55
    assert len(played) == 5


def test_a_run_that_was_given_up_is_not_kept(tmp_path: Path) -> None:
    runs = KeptRuns(tmp_path / "kept", "this", "a")
    assert runs.keep("ray-default", {}, lambda: None) is None
    assert runs.keep("ray-default", {}, figures) == figures()


def a_folder(folder: Path, seconds: int = 200) -> Path:
    rows = "".join(f"{number / 2},300,40\n" for number in range(2 * seconds))
    text = f"arrival_s,input_tokens,output_tokens\n{rows}"
    (folder / "calm.csv").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_has_its_traces_and_what_is_said_of_them(tmp_path: Path) -> None:
    a_folder(tmp_path)
    (tmp_path / "scaling.yaml").write_text(
        "calm.csv: {gpus: {T4: 5}, times: 3, tier: reasoning}\n", encoding="utf-8"
    )
    (name, path), *others = trace_files(tmp_path).items()
    assert (name, others) == ("calm", [])
    case = folder_case(path)
    assert (case.gpus, case.trace.times, case.trace.tiers) == ({"T4": 5}, 3.0, (Tier.REASONING,))
    assert case.start == {Tier.REASONING: 1}


def test_a_trace_of_which_nothing_is_said_has_gpus_enough(tmp_path: Path) -> None:
    case = folder_case(trace_files(a_folder(tmp_path))["calm"])
    assert case.gpus == {"T4": 3}


@pytest.mark.parametrize("text", ["calm.csv: {gpu: 3}", "calm.csv: 3", "- 3", "a: ]"])
def test_a_folders_settings_that_are_wrong_name_their_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "scaling.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"scaling\.yaml"):
        settings_of(a_folder(tmp_path) / "calm.csv")


def test_a_folder_without_traces_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        trace_files(tmp_path)


def test_the_command_plays_a_folder_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from loadtest.__main__ import main

    out = tmp_path / "out.json"
    argv = ["bench-scaling", "--traces", str(a_folder(tmp_path, 60)), "--json", str(out)]
    argv += ["--kept", str(tmp_path / "kept"), "--jobs", "1", "--plan-tries", "4", "--laws"]
    assert main([*argv, "ours", "ray-default", "constant", "clairvoyant"]) == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    rows = document["cases"]["calm"]["rows"]
    assert set(rows) == {"ours", "ray-default", "constant", "clairvoyant"}
    assert all(own["figures"]["goodput"] == 1.0 for own in rows.values())
    assert rows["constant"]["setting"] == {"chat": 1}
    assert document["summary"]["ray"]["mean"] == pytest.approx(1.0, rel=0.02)
    kept = sorted((tmp_path / "kept").iterdir())
    again = tmp_path / "again.json"
    words = [str(again) if word == str(out) else word for word in argv[:-1]]
    assert main([*words, "--others", str(out)]) == 0
    same = json.loads(again.read_text(encoding="utf-8"))
    assert same["cases"] == document["cases"]
    assert same["summary"] == document["summary"]
    assert same["meta"]["others"]["command"] == document["meta"]["command"]
    assert main([*words, "--others", str(tmp_path / "calm.csv")]) == 2
    assert main([*argv, "ours", "constant"]) == 0
    assert sorted((tmp_path / "kept").iterdir()) == kept
    assert "geometric mean" in capsys.readouterr().out


def test_the_command_names_its_cases_and_refuses_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from loadtest.__main__ import main

    assert main(["bench-scaling", "--list"]) == 0
    assert "opposite-phase" in capsys.readouterr().out
    assert main(["bench-scaling", "--cases", "nonesuch"]) == 2
    assert "nonesuch" in capsys.readouterr().out


def test_the_page_has_the_summary_the_table_and_how_it_was_made() -> None:
    from loadtest.simulation.bench_scaling import page_text

    cases = {"one": a_case(figures(0.9, 2.0), 4, **{"ray-default": figures(0.9, 3.0)})}
    meta = {
        "slo": {"ttft": 2.0, "tpot": 0.1}, "max_wait_s": 10.0, "command": "the command",
        "date": "2026-01-01", "commit": "abc",
    }  # fmt: skip
    text = page_text(cases, summary(cases), meta)
    assert text.startswith("- Against Ray's policy")
    assert table(cases) in text
    for part in ("TTFT 2 s, TPOT 0.1 s", "`the command`", "abc"):
        assert part in text
    assert "other policies" not in text
    others = {"command": "before", "date": "2025-01-01", "commit": "def"}
    text = page_text(cases, summary(cases), {**meta, "others": others})
    assert "rows of the other policies: `before`, 2025-01-01, commit def." in text
