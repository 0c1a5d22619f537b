"""A PC with AVX-512 in Bochs, for machines whose processor has none: the driver starts from a disk that has its files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BIOS = Path("/usr/share/bochs/BIOS-bochs-latest"), Path("/usr/share/bochs/VGABIOS-lgpl-latest")
SECTOR = 512
PROGRAM = 8 << 20
"""bytes of the disk for boot sector and program"""
FILE = 8 << 20
"""for each file that is written"""
BARE = [
    "-DPC",
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
    "-static",
    "-nostdlib",
    "-mno-red-zone",
    "-fno-stack-protector",
    "-fcf-protection=none",
]


def why_not() -> str:
    missing = [tool for tool in ("gcc", "ld", "objcopy", "bochs") if not shutil.which(tool)] + [
        str(p) for p in BIOS if not p.is_file()
    ]
    return f"this processor has no AVX-512, and {' and '.join(missing)}, which imitate one, are not installed" if missing else ""


def run(options: list[str], driver: Path, library: Path, work: Path) -> None:
    """Compile a driver, run it, and write the files that it made to `work`, where its calls.h and its files are."""
    read = sorted(p.name for p in work.iterdir() if re.fullmatch(r"in_\d+|weights", p.name))
    outputs = int(re.search(r"OUTPUTS (\d+)", (work / "calls.h").read_text())[1])  # type: ignore[index]
    written = [*(f"out_{k}" for k in range(outputs)), "result", "status", "states"]
    places, end = {}, PROGRAM
    for name in read:
        places[name] = end
        end += -(-(work / name).stat().st_size // SECTOR) * SECTOR
    for name in written:
        places[name] = end
        end += FILE
    with (work / "calls.h").open("a") as file:
        file.write("#define DISK " + ", ".join(f'{{"{name}", {at // SECTOR}}}' for name, at in places.items()) + "\n")
    _shell(
        [
            "gcc",
            *options,
            *BARE,
            str(driver),
            str(library),
            f"-Wl,-T,{HERE / 'pc.ld'},--build-id=none,--no-warn-rwx-segments",
            "-o",
            str(work / "program"),
        ]
    )
    _shell(["objcopy", "-O", "binary", str(work / "program"), str(work / "program.bin")])
    program = (work / "program.bin").read_bytes()
    assert len(program) < PROGRAM - SECTOR
    _shell(["gcc", "-c", f"-DSECTORS={-(-len(program) // SECTOR)}", str(HERE / "boot.S"), "-o", str(work / "boot.o")])
    _shell(["ld", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary", str(work / "boot.o"), "-o", str(work / "boot")])
    track = 16 * 63 * SECTOR
    with (work / "disk").open("wb") as disk:
        disk.write((work / "boot").read_bytes() + program)
        for name in read:
            disk.seek(places[name])
            disk.write((work / name).read_bytes())
        disk.truncate(-(-end // track) * track)
    settings = f"""
config_interface: textconfig
display_library: term
sound: driver=dummy
cpu: model=corei7_skylake_x, ips=200000000
memory: guest=128, host=128
romimage: file={BIOS[0]}
vgaromimage: file={BIOS[1]}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk, mode=flat, cylinders={-(-end // track)}, heads=16, spt=63
boot: disk
log: log
panic: action=fatal
"""
    (work / "settings").write_text(settings)
    (work / "commands").write_text("c\n")
    command = ["bochs", "-q", "-f", "settings", "-rc", "commands"]
    done = subprocess.run(
        command,
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        env={**os.environ, "TERM": "xterm"},
    )
    assert "shutdown requested" in done.stdout + done.stderr, f"{done.stdout[-600:]}\n{(work / 'log').read_text()[-3000:]}"
    with (work / "disk").open("rb") as disk:
        for name in written:
            disk.seek(places[name])
            size = int.from_bytes(disk.read(SECTOR)[:8], "little")
            assert size <= FILE - SECTOR
            (work / name).write_bytes(disk.read(size))
    status = int.from_bytes((work / "status").read_bytes(), "little")
    assert status == 0, f"exit status {status}"


def _shell(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
