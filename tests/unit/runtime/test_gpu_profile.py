"""`rfc profile`: the forms in which AMD's profilers write, as their documentation shows them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rocmforge.artifacts.arguments import Argument, BufferRef, TensorRef
from rocmforge.artifacts.errors import RocmforgeError, ToolchainError
from rocmforge.artifacts.layout import LaunchEntry
from rocmforge.runtime import gpu_profile
from rocmforge.runtime.gpu_profile import (
    KernelProfile,
    ProfileOptions,
    find_profiler,
    format_profile,
    kernel_name,
    planned_bytes,
    profile,
    read_counters,
    read_times,
)
from rocmforge.tests.support.hip_bundle import LAYOUT, hip_bundle, target

# rocprofv3 of ROCm 6.2 and of 7: columns came in between, and the kernels' names are demangled.
TRACE_6 = """\
"Kind","Agent_Id","Queue_Id","Kernel_Id","Kernel_Name","Correlation_Id","Start_Timestamp","End_Timestamp",\
"Private_Segment_Size","Group_Segment_Size","Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z",\
"Grid_Size_X","Grid_Size_Y","Grid_Size_Z"
"KERNEL_DISPATCH",1,1,10,"norm_5bbc85e6(void*, void*)",1,1000,1500,0,0,256,1,1,256,1,1
"KERNEL_DISPATCH",1,1,11,"gemv_q4_1_64x64_93bbf0e0",2,2000,4000,0,0,32,1,1,64,1,1
"KERNEL_DISPATCH",1,1,10,"norm_5bbc85e6(void*, void*)",3,5000,5250,0,0,256,1,1,256,1,1
"""
TRACE_7 = """\
"Kind","Agent_Id","Queue_Id","Stream_Id","Thread_Id","Dispatch_Id","Kernel_Id","Kernel_Name","Correlation_Id",\
"Start_Timestamp","End_Timestamp","LDS_Block_Size","Scratch_Size","VGPR_Count","Accum_VGPR_Count","SGPR_Count",\
"Workgroup_Size_X","Workgroup_Size_Y","Workgroup_Size_Z","Grid_Size_X","Grid_Size_Y","Grid_Size_Z"
"KERNEL_DISPATCH","Agent 1",1,0,77,1,10,"norm_5bbc85e6",1,1000,1500,0,0,8,0,16,256,1,1,256,1,1
"KERNEL_DISPATCH","Agent 1",1,0,77,2,11,"gemv_q4_1_64x64_93bbf0e0",2,2000,4000,0,0,8,0,16,32,1,1,64,1,1
"KERNEL_DISPATCH","Agent 1",1,0,77,3,10,"norm_5bbc85e6",3,5000,5250,0,0,8,0,16,256,1,1,256,1,1
"""
COUNTERS_7 = """\
"Correlation_Id","Dispatch_Id","Agent_Id","Queue_Id","Process_Id","Thread_Id","Grid_Size","Kernel_Id","Kernel_Name",\
"Workgroup_Size","LDS_Block_Size","Scratch_Size","VGPR_Count","Accum_VGPR_Count","SGPR_Count","Counter_Name",\
"Counter_Value","Start_Timestamp","End_Timestamp"
1,1,"Agent 1",1,9,9,256,10,"norm_5bbc85e6",256,0,0,8,0,16,"FETCH_SIZE",2.500000,1000,1500
1,1,"Agent 1",1,9,9,256,10,"norm_5bbc85e6",256,0,0,8,0,16,"WRITE_SIZE",1.25000000e-01,1000,1500
2,2,"Agent 1",1,9,9,64,11,"gemv_q4_1_64x64_93bbf0e0",32,0,0,8,0,16,"FETCH_SIZE",4,2000,4000
3,3,"Agent 1",1,9,9,256,10,"norm_5bbc85e6",256,0,0,8,0,16,"FETCH_SIZE",0.5,5000,5250
"""
RESULTS_V1 = """\
"Index","KernelName","gpu-id","queue-id","queue-index","pid","tid","grd","wgr","lds","scr","arch_vgpr","accum_vgpr",\
"sgpr","wave_size","sig","obj","FetchSize","WriteSize","DispatchNs","BeginNs","EndNs","CompleteNs","DurationNs"
0,"norm_5bbc85e6.kd",1,0,0,9,9,256,256,0,0,8,0,16,32,"0x0","0x7f",2.5,0.125,900,1000,1500,1600,500
1,"gemv_q4_1_64x64_93bbf0e0(void*) [clone .kd]",1,0,2,9,9,64,32,0,0,8,0,16,32,"0x0","0x7e",4,0,1900,2000,4000,4100,2000
2,"norm_5bbc85e6.kd",1,0,4,9,9,256,256,0,0,8,0,16,32,"0x0","0x7f",0.5,0,4900,5000,5250,5300,250
"""
NORM, GEMV = "norm_5bbc85e6", "gemv_q4_1_64x64_93bbf0e0"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("text", [TRACE_6, TRACE_7, RESULTS_V1], ids=["rocprofv3-6.2", "rocprofv3-7", "rocprof"])
def test_times_of_every_form(text: str, tmp_path: Path) -> None:
    kernels = read_times([written(tmp_path, "kernel_trace.csv", text)])
    assert {name: (kernel.launches, kernel.nanoseconds) for name, kernel in kernels.items()} == {
        NORM: (2, 750),
        GEMV: (1, 2000),
    }


@pytest.mark.parametrize(("trace", "text"), [(TRACE_7, COUNTERS_7), (RESULTS_V1, RESULTS_V1)], ids=["v3", "v1"])
def test_bytes_of_both_forms(trace: str, text: str, tmp_path: Path) -> None:
    kernels = read_times([written(tmp_path, "a.csv", trace)])
    read_counters([written(tmp_path, "b.csv", text)], kernels)
    assert (kernels[NORM].read, kernels[NORM].written) == (3 * 1024, 128)
    assert (kernels[GEMV].read, kernels[GEMV].written or 0) == (4 * 1024, 0)


def test_a_kernel_that_was_not_counted_has_no_bytes(tmp_path: Path) -> None:
    kernels = {"other": KernelProfile("other", 1, 10)}
    read_counters([written(tmp_path, "b.csv", COUNTERS_7)], kernels)
    assert kernels["other"].read is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", None),
        (
            '"Kind","Name"\n"KERNEL_DISPATCH","x"\n',
            "trace.csv: expected a column Kernel_Name or KernelName, found Kind, Name",
        ),
        (TRACE_7.replace("5250", "soon"), "trace.csv: End_Timestamp: expected a number, found 'soon'"),
        (TRACE_7.replace(",5250", ""), None),  # a row that is too short: what follows moves up, as numbers
        (TRACE_7[: TRACE_7.index(",2000,4000")], "trace.csv: End_Timestamp: expected a number, found ''"),
        ('"Kind"\n"KERNEL_DISPATCH",5\n', "trace.csv: expected a column Kernel_Name or KernelName, found Kind, rest"),
    ],
    ids=["empty", "columns", "number", "short", "cut", "long"],
)
def test_F111_what_a_profiler_should_not_write(text: str, problem: str | None, tmp_path: Path) -> None:
    path = written(tmp_path, "trace.csv", text)
    if problem is None:
        read_times([path])
        return
    with pytest.raises(ToolchainError) as caught:
        read_times([path])
    assert str(caught.value) == problem


def test_a_name_is_kept_whatever_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b'KernelName,BeginNs,EndNs\r\n"a\xff\r\nb.kd",7,9\r\n')
    (kernel,) = read_times([path]).values()
    assert (kernel.name, kernel.launches, kernel.nanoseconds) == ("a\ufffd\r\nb", 1, 2)


@pytest.mark.parametrize(
    "text",
    ["gemm_q4_1", "gemm_q4_1.kd", "gemm_q4_1(void*, int)", "gemm_q4_1 [clone .kd]", "gemm_q4_1(int) [clone .kd]"],
)
def test_names_are_symbols(text: str) -> None:
    assert kernel_name(text) == "gemm_q4_1"


def test_the_newest_profiler_is_taken_wherever_it_is(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path / "none"), "ROCM_PATH": str(tmp_path / "rocm")}
    with pytest.raises(ToolchainError, match="found neither"):
        find_profiler(nowhere)
    old, new = tmp_path / "none/rocprof", tmp_path / "rocm/bin/rocprofv3"
    for path in (old, new):
        written(path.parent, path.name, "").chmod(0o755)
        assert find_profiler(nowhere) == str(path)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({"PATH": "/a:/b", "ROCM_PATH": "/rocm"}, "/a:/b:/rocm/bin:/opt/rocm/bin"), ({}, ":/opt/rocm/bin:/opt/rocm/bin")],
)
def test_where_profilers_are_looked_for(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[tuple[str, str]]()

    def which(name: str, path: str) -> str | None:
        asked.append((name, path))
        return f"/found/{name}" if name == "rocprof" else None

    monkeypatch.setattr("shutil.which", which)
    assert find_profiler(environment) == "/found/rocprof"
    assert asked == [("rocprofv3", expected), ("rocprof", expected)]


def test_the_environment_is_that_of_this_process_unless_it_is_given() -> None:
    assert ProfileOptions(Path("b.rfb"), "a prompt", 3, "hip").environment is os.environ


class Profiler:
    """Stands for a profiler that writes where it is told to. It cannot count where `counts` says no; `half` of it: the
    code says so and something is written, or nothing is written and the code is 0."""

    def __init__(
        self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, counts: bool = True, half: str = ""
    ) -> None:
        written(folder / "bin", name, "").chmod(0o755)
        self.path = str(folder / "bin" / name)
        self.options = ProfileOptions(folder / "b.rfb", "a prompt", 3, "hip:1", {"PATH": str(folder / "bin")})
        self.commands: list[list[str]] = []
        self.asked: list[str] = []  # what files say that it is given
        self._counts, self._half = counts, half
        monkeypatch.setattr(gpu_profile, "planned_bytes", lambda _: {GEMV: 4096, "idle": 9})

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(list(command))
        code, said = 0, ""
        if {"--pmc", "-i"} & set(command) and not self._counts:
            code, said = int(self._half != "silent"), "counter FETCH_SIZE\nnot on this arch\n"
            if self._half != "failing":
                return subprocess.CompletedProcess(command, code, "", said)
        if "-i" in command:
            self.asked.append(Path(command[command.index("-i") + 1]).read_text())
        if "-o" in command:
            Path(command[command.index("-o") + 1]).write_text(
                RESULTS_V1 if self._counts else RESULTS_V1.replace("Size", "")
            )
        else:
            goal = Path(command[command.index("--output-directory") + 1])
            name, text = (
                ("1_counter_collection.csv", COUNTERS_7) if "--pmc" in command else ("1_kernel_trace.csv", TRACE_7)
            )
            written(goal / "host/pass_1", name, text)
        return subprocess.CompletedProcess(command, code, "", said)

    def expected(self, folder: str) -> list[list[str]]:
        """The commands of a profile that counts, and then of times alone."""
        run = [sys.executable, "-m", "rocmforge.cli", "run", str(self.options.bundle), "a prompt"]
        run += ["-n", "3", "--temperature", "0", "--device", "hip:1"]
        if self.path.endswith("v3"):
            output = ["--output-format", "csv", "--output-directory"]
            times = [self.path, "--kernel-trace", "--marker-trace", *output, f"{folder}/times", "--", *run]
            return [times, [self.path, "--pmc", "FETCH_SIZE", "WRITE_SIZE", *output, f"{folder}/bytes", "--", *run]]
        times = ["--timestamp", "on", "-o", f"{folder}/results.csv", *run]
        counting = [self.path, "-i", f"{folder}/counters.txt", *times]
        return [counting] if self._counts else [counting, [self.path, *times]]


@pytest.mark.parametrize("name", ["rocprofv3", "rocprof"])
def test_a_profile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, said = Profiler(name, tmp_path, monkeypatch), list[str]()
    kernels = profile(fake.options, said.append, fake)
    assert [(kernel.name, kernel.launches, kernel.planned) for kernel in kernels] == [(GEMV, 1, 4096), (NORM, 2, None)]
    assert kernels[0].read == 4096
    assert said == [f"profiler: {fake.path}"]
    folder = next(Path(part).parent for part in fake.commands[0] if part.endswith(("/times", "/results.csv")))
    assert folder.name.startswith("rocmforge-profile-")
    assert not folder.exists()
    assert fake.commands == fake.expected(str(folder))
    assert fake.asked == (["pmc : FetchSize WriteSize\n"] if name == "rocprof" else [])
    table = list(format_profile(kernels))
    assert [line.split()[-1] for line in table] == ["kernel", GEMV, NORM, "all"]
    assert table[1].split()[:7] == ["0.002", "72.7%", "1", "2.00", "0.004", "0.004", "2"]
    assert table[-1].split()[:2] == ["0.003", "3"]


def test_a_table_of_what_was_counted_in_part() -> None:
    """Bytes a nanosecond are GB a second, of what is read and written; what is not known is a dash."""
    kernels = [
        KernelProfile("one", 2, 3_000_000, 6e9, 3e9, 5_500_000),
        KernelProfile("two", 4, 1_000_000, 1e6, None, None),
        KernelProfile("three", 0, 0, 7.0, None, None),
        KernelProfile("four", 1, 1, 1.0, None, None),
        KernelProfile("five", 1, 0, None, 9.0, None),
    ]
    assert [line.split() for line in format_profile(kernels)][1:] == [
        ["3.000", "75.0%", "2", "1500.00", "6000.000", "5.500", "3000", "one"],
        ["1.000", "25.0%", "4", "250.00", "1.000", "-", "1", "two"],
        ["0.000", "0.0%", "0", "0.00", "0.000", "-", "-", "three"],
        ["0.000", "0.0%", "1", "0.00", "0.000", "-", "1", "four"],
        ["0.000", "0.0%", "1", "0.00", "-", "-", "-", "five"],
        ["4.000", "8", "all"],
    ]
    assert next(iter(list(format_profile([]))[1:])).split() == ["0.000", "0", "all"]


def test_bytes_that_a_launch_has_to_read(tmp_path: Path) -> None:
    """Weights alone, of kernels that read all of them; on average, where launches of a kernel differ."""
    launches: dict[str, list[tuple[Argument, ...]]] = {
        "embedding": [(TensorRef("embedding"), BufferRef("hidden"))],
        "norm": [(TensorRef("norm"), BufferRef("hidden"))],
        "gemv_2": [
            (TensorRef("norm"), TensorRef("table"), BufferRef("hidden")),
            (TensorRef("norm"), None, BufferRef("hidden")),
        ],
        "gemm": [(TensorRef("table"), None, BufferRef("hidden"))],
        "once": [()],
    }
    layout = dataclasses.replace(
        LAYOUT,
        launches=tuple(
            LaunchEntry(name, arguments, next(one.grid for one in LAYOUT.launches if one.kernel == name))
            for name, each in launches.items()
            for arguments in each
        ),
    )
    templates = {"embedding": "embedding", "norm": "norm", "gemv_2": "gemv", "gemm": "gemm", "once": "gate"}
    kernels = tuple({"symbol": symbol, "template": template} for symbol, template in templates.items())
    host = dataclasses.replace(target("host"), backend="host", level="x86_64_v4", file="code/host.so")
    for name, rows in (("one", [target("gfx1100")]), ("both", [host, target("gfx1100")])):
        (tmp_path / name).mkdir()
        with hip_bundle(tmp_path / name, layout=layout, targets=rows, kernels=kernels) as bundle:
            assert planned_bytes(bundle.path) == {"norm": 256, "gemv_2": (4352 + 256) // 2, "gemm": 4096}
    with (
        hip_bundle(tmp_path, layout=layout, targets=[host], kernels=kernels) as bundle,
        pytest.raises(RocmforgeError) as caught,
    ):
        planned_bytes(bundle.path)
    problem = "expected code for an AMD GPU, found none: rfc compile --arch"
    assert str(caught.value) == f"{tmp_path}/model.rfb: {problem}"


@pytest.mark.parametrize("half", ["", "silent", "failing"])
@pytest.mark.parametrize("name", ["rocprofv3", "rocprof"])
def test_times_alone_where_nothing_can_be_counted(
    name: str, half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, said = Profiler(name, tmp_path, monkeypatch, counts=False, half=half), list[str]()
    kernels = profile(fake.options, said.append, fake)
    assert [(kernel.name, kernel.launches, kernel.read) for kernel in kernels] == [(GEMV, 1, None), (NORM, 2, None)]
    folder = next(Path(part).parent for part in fake.commands[0] if part.endswith(("/times", "/results.csv")))
    assert fake.commands == fake.expected(str(folder))
    assert said[1:] == ["bytes were not counted: not on this arch"]
    assert next(iter(list(format_profile(kernels))[1:])).split()[4:7] == ["-", "0.004", "-"]


def test_F111_a_profiler_that_fails_or_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Profiler("rocprofv3", tmp_path, monkeypatch)

    def failing(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 4, "", "rfc: no AMD GPU can be used\n")

    def silent(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "", "")

    with pytest.raises(ToolchainError, match=r"rocprofv3 ended with code 4: rfc: no AMD GPU can be used$"):
        profile(fake.options, str, failing)
    with pytest.raises(ToolchainError, match=r"wrote no \*kernel_trace.csv: did anything run on a GPU\?"):
        profile(fake.options, str, silent)


def test_the_profiler_is_run_and_what_it_says_is_kept(tmp_path: Path) -> None:
    """It has nothing of what is typed here."""
    script = "import sys; print(5); print(sys.stdin.read(), file=sys.stderr); sys.exit(3)"
    (reader, writer), kept = os.pipe(), os.dup(0)
    os.write(writer, b"typed")
    os.close(writer)
    os.dup2(reader, 0)
    try:
        done = gpu_profile._run([sys.executable, "-c", script])
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reader)
    assert (done.returncode, done.stdout, done.stderr) == (3, "5\n", "\n")
    with pytest.raises(ToolchainError, match=f"{tmp_path}/none: No such file or directory"):
        gpu_profile._run([f"{tmp_path}/none"])
