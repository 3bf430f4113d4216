"""The process that reads uploads: it has little memory, little time, and can open no file.

Started by `neuralblack.service.decoder`, never by hand. It imports what reading needs (numpy, Pillow, h5py, pydicom,
nibabel where it is installed) and answers messages on one pipe until that pipe closes: bytes in; out come two marks and
the content. Behind `PIXELS` that is JSON with the facts of the picture and, as its last S x S bytes, raw uint8; behind
`REFUSED` it is JSON. The second mark says whether this process should be replaced.
"""

import io
import json
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from neuralblack.data.preprocessing import Preprocessing, prepared
from neuralblack.data.readers import KINDS, read_slice
from neuralblack.errors import InputError
from neuralblack.service.decoder_samples import samples

READY, PIXELS, REFUSED = b"R", b"P", b"N"
FRESH, SPENT = b"0", b"1"


def main() -> None:
    """Serve one parent: the pipe's file number is the only argument, its first message the limits and the spec."""
    pipe = Connection(int(sys.argv[1]))
    options = json.loads(pipe.recv_bytes())
    spec = Preprocessing.model_validate(options["preprocessing"])
    _load_what_is_loaded_late(spec)
    statistics = Path("/proc/self/statm").open("rb", buffering=0)  # noqa: SIM115 - stays open
    baseline = _address_space(statistics)
    _limit(baseline + options["memory_bytes"])
    pipe.send_bytes(READY)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return  # the service has ended
        # A backstop for a parent that died meanwhile; the parent's own limit is shorter. The default action of the
        # signal ends the process even inside a C loop that never returns to Python.
        signal.alarm(options["alarm_s"])
        kind, content = _decode(data, spec)
        signal.alarm(0)
        # What a file left behind must not make the next, honest one fail.
        spent = _address_space(statistics) - baseline > options["memory_bytes"] // 2
        pipe.send_bytes(kind + (SPENT if spent else FRESH) + content)


def _decode(data: bytes, spec: Preprocessing) -> tuple[bytes, bytes]:
    try:
        slice_ = read_slice(data, where="upload", labelled=False)
        ready = prepared(slice_, spec, where="upload")
        facts = {"colour": ready.colour, "shape": ready.shape}
        return PIXELS, json.dumps(facts).encode() + ready.pixels.tobytes()
    except InputError as error:
        refusal = error.at("upload")
    except MemoryError:
        refusal = InputError(
            "upload",
            found="a file that unpacks to more memory than a slice needs",
            expected="one slice",
            fix="export the slice again as PNG",
        )
    except Exception as error:  # the edge of a decoder: broken files raise anything
        refusal = InputError(
            "upload",
            found=f"a file that cannot be read ({type(error).__name__})",
            expected=f"one slice as {KINDS}",
            fix="export the slice again",
        )
    return REFUSED, json.dumps({"found": refusal.found, "expected": refusal.expected, "fix": refusal.fix}).encode()


def _load_what_is_loaded_late(spec: Preprocessing) -> None:
    """Import every Pillow plugin and go each way once: behind `_limit` no module can be opened any more."""
    Image.init()
    for kind, data in samples():
        kind_of_answer, content = _decode(data, spec)
        if kind_of_answer != PIXELS:
            raise RuntimeError(f"this decoder cannot read its own {kind}: {content.decode()}")


def _limit(memory_bytes: int) -> None:
    """Take away what reading a slice does not need.

    RLIMIT_AS and not RLIMIT_DATA: it counts every mapping, shared ones too, so nothing a decoder can ask for is left
    out; that libraries count as well does not matter, because the limit is set above what they already take.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold somebody's scan
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # A second wall behind the reader's checks: no file can be opened, whatever a crafted HDF5 file names as its data.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _address_space(statistics: io.FileIO) -> int:
    """Bytes this process has mapped."""
    statistics.seek(0)
    return int(statistics.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
