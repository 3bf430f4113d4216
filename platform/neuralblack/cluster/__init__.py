"""Everything that crosses a process or a machine: Ray Train, Tune and Serve. The only package that imports Ray."""

from neuralblack.cluster.environment import set_environment

set_environment()  # here, because Ray reads its environment at import, and every module of this package imports Ray
