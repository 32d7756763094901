"""python -m cglo_jax.pretrained: downloads the published weights, see `networks.main`."""

import sys

from cglo_jax.pretrained import networks
from cglo_jax.process import streams

streams.mend()
sys.exit(networks.main())
