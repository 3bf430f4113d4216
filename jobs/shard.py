r"""Write a dataset of the cluster's shared file system as shards, into a folder there or into S3; again goes on.

ray job submit --working-dir . --runtime-env jobs/env.yaml -- \
    python jobs/shard.py /mnt/shared/slices s3://bucket/slices
"""

from functools import partial

import typer

from neuralblack.cli import run_verb, shard

if __name__ == "__main__":
    run_verb(partial(typer.run, shard))
