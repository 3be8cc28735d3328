"""What a record asks other commands for: each of its command lines is one that they take."""

import json
from pathlib import Path

import pytest

from loadtest.__main__ import parse
from loadtest.gpu_record.plan import BUDGETS, BUDGETS_PAGE, BY_NAME, PARTS, Part, Target
from loadtest.gpu_record.service import one_tier, this_gpu_service
from loadtest.report.results_file import REPOSITORY
from serve_app.local.profiles import PROFILES, load_profile

LIMIT_S = 45 * 60


def target(folder: Path, *, quick: bool, on_gpu: bool = False) -> Target:
    return Target(folder, "micro-r1", on_gpu, quick, "http://127.0.0.1:8000")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("part", [part for part in PARTS if part.words], ids=lambda p: p.name)
def test_each_part_is_a_command_line_that_its_command_takes(
    tmp_path: Path, part: Part, on_gpu: bool, quick: bool
) -> None:
    assert part.words is not None
    words = part.words(target(tmp_path, quick=quick, on_gpu=on_gpu))
    options = parse(words)
    assert options.command == words[0]
    assert options.out.is_relative_to(tmp_path)


def test_the_budget_curve_finds_the_place_of_its_table_in_the_folder(tmp_path: Path) -> None:
    words = BY_NAME[BUDGETS].words
    assert words is not None
    words(target(tmp_path, quick=True))
    page = tmp_path / BUDGETS_PAGE
    page.write_text(page.read_text() + "kept\n")
    words(target(tmp_path, quick=True))
    assert page.read_text().endswith("kept\n")


def test_all_parts_fit_into_the_minutes_that_are_promised() -> None:
    assert sum(part.seconds(quick=False) for part in PARTS) <= LIMIT_S
    assert sum(part.seconds(quick=True) for part in PARTS) <= LIMIT_S / 4


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"local-cpu"}))
def test_one_tier_has_the_whole_gpu(profile: str) -> None:
    config = one_tier(load_profile(profile), "a/model", whole=True)
    web, chat = config["applications"]
    assert (web["name"], chat["name"]) == ("web", "chat")
    assert web["args"]["tiers"] == ["chat"]
    [deployment] = chat["deployments"]
    assert deployment["ray_actor_options"]["num_gpus"] == 1
    assert deployment["autoscaling_config"]["max_replicas"] == 1
    assert chat["args"]["engine"]["gpu_memory_utilization"] >= 0.85
    assert chat["args"]["model"] == "a/model"


def test_without_a_gpu_the_small_reasoning_model_is_served() -> None:
    served = this_gpu_service()
    assert served.gpu is None
    assert served.model == "micro-r1"
    assert served.name == "CPU"


def test_the_notebook_is_one_cell_of_python_that_runs_the_command() -> None:
    notebook = json.loads((REPOSITORY / "docs" / "cards" / "tierserve_card.ipynb").read_text())
    [cell] = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code = "".join(cell["source"])
    compile(code, "tierserve_card.ipynb", "exec")
    assert '".venv/bin/tierserve", "bench", "card"' in code
