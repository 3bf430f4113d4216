r"""Prepare scans that lie on the cluster's shared file system.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/prepare.py /mnt/shared/figshare_1512427 --out /mnt/shared/slices
"""

from functools import partial

import typer

from neuralblack.cli import prepare, run_verb

if __name__ == "__main__":
    run_verb(partial(typer.run, prepare))
