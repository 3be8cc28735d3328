"""What counts as a model: the embedded one, a directory, a hub name, and every way to be none."""

import json
import struct
from pathlib import Path

import pytest

from serve_app.engine.models import model_dir
from serve_app.engine.models.model_dir import ModelNotFoundError, resolve_model


def write_safetensors(file: Path, *, missing_bytes: int = 0) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16 - missing_bytes))


def make_model_dir(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text("{}")
    write_safetensors(path / "model.safetensors")
    return path


def test_a_whole_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    model = make_model_dir(tmp_path / "m")
    assert resolve_model(str(model)) == model


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_directory_that_misses_a_file_is_refused(tmp_path: Path, file: str) -> None:
    model = make_model_dir(tmp_path)
    (model / file).unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no .*: download the model again"):
        resolve_model(str(model))


def test_weights_that_may_not_be_read_are_not_called_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = make_model_dir(tmp_path) / "model.safetensors"
    # Root may read everything, and tests may run as root.
    monkeypatch.setattr("os.access", lambda path, mode: path != weights)
    with pytest.raises(ModelNotFoundError, match=rf"may not read '{weights}'"):
        resolve_model(str(weights.parent))


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    model = make_model_dir(tmp_path)
    write_safetensors(model / "model.safetensors", missing_bytes=1)
    with pytest.raises(ModelNotFoundError, match="truncated"):
        resolve_model(str(model))


def test_a_shard_named_by_the_index_must_be_there(tmp_path: Path) -> None:
    model = make_model_dir(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match=r"model-2\.safetensors"):
        resolve_model(str(model))


def test_a_broken_config_is_refused(tmp_path: Path) -> None:
    model = make_model_dir(tmp_path)
    (model / "config.json").write_text('{"model_type"')
    with pytest.raises(ModelNotFoundError, match=r"unreadable config\.json"):
        resolve_model(str(model))


def test_a_hub_name_passes_through() -> None:
    assert resolve_model("Qwen/Qwen2.5-Math-1.5B") == "Qwen/Qwen2.5-Math-1.5B"


@pytest.mark.parametrize(("name", "folder"), [("micro-r1", "micro_r1"), ("micro-r2", "micro_r2")])
def test_the_embedded_reasoning_models_lie_in_the_package(
    name: str, folder: str, tmp_path: Path
) -> None:
    path = Path(resolve_model(name, tmp_path))
    assert path == Path(model_dir.__file__).parents[1] / folder
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_answered_with_the_embedded_ones() -> None:
    with pytest.raises(
        ModelNotFoundError, match="the embedded 'smollm2', 'micro-r1' or 'micro-r2'"
    ):
        resolve_model("micro-r3")


@pytest.mark.parametrize("name", ["/no/such/dir", "./here", "a b", "one/two/three", ""])
def test_neither_a_path_nor_a_name(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        resolve_model(name)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ModelNotFoundError, match="give a local directory with MODEL="):
        model_dir.check_hub_model("a/b")


class FakeConversion:
    """Stands in for transformers: writes a tiny directory and counts how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(model_dir, "_embedded_gguf", lambda: (Path("x.gguf"), "1.0"))
        monkeypatch.setattr(model_dir.subprocess, "run", self.run)
        self.returncode, self.stderr = 0, ""

    def run(self, argv: list[str], **_: object) -> "FakeConversion":
        self.count += 1
        if self.returncode == 0:
            make_model_dir(Path(argv[-1]))
        return self


def test_the_embedded_model_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = FakeConversion(monkeypatch)
    first = resolve_model("smollm2", tmp_path)
    assert resolve_model("smollm2", tmp_path) == first
    assert conversion.count == 1


@pytest.mark.parametrize("damage", ["change", "remove", "marker"])
def test_a_damaged_conversion_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    conversion = FakeConversion(monkeypatch)
    path = Path(resolve_model("smollm2", tmp_path))
    if damage == "change":
        (path / "tokenizer.json").write_text("[]")
    elif damage == "remove":
        (path / "model.safetensors").unlink()
    else:
        next(path.glob("tierserve-*.json")).write_text("{")
    resolve_model("smollm2", tmp_path)
    assert conversion.count == 2
    assert json.loads((path / "tokenizer.json").read_text()) == {}


def test_a_failed_conversion_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = FakeConversion(monkeypatch)
    conversion.returncode, conversion.stderr = 1, "Traceback\nOSError: No space left on device\n"
    with pytest.raises(ModelNotFoundError, match=r"No space left on device.*TIERSERVE_CACHE"):
        resolve_model("smollm2", tmp_path)
    assert [file.name for file in (tmp_path / "models").iterdir() if file.suffix != ".lock"] == []


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TIERSERVE_CACHE", raising=False)
    assert model_dir.default_cache_dir() == tmp_path / "tierserve"
    monkeypatch.setenv("TIERSERVE_CACHE", str(tmp_path / "chosen"))
    assert model_dir.default_cache_dir() == tmp_path / "chosen"


@pytest.mark.timeout(240)
@pytest.mark.e2e
def test_the_real_embedded_model_speaks_its_chat_template(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = resolve_model("smollm2", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer is not None
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert str(text).endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>"
