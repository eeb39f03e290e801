"""Run specs for tests: one with most keys, and the least that a run needs."""

from __future__ import annotations

FULL = """\
model:
  id: zai-org/CogVideoX-5b
  task: text-to-video
  revision: main
  variant: fp16
  dtype: bfloat16
manifest:
  uri: s3://bucket/rows/*.parquet
  passthrough: [source, licence]
output:
  uri: s3://bucket/out
  format: gif
  fps: 12.5
  crf: 20
topology:
  device: cpu
  replicas: 3
  address: auto
  shard_size: 4
  ulysses: 2
  ring: 3
  cfg: 2
  gang: 12
  memory: 64GB
  npus: 36
  watchdog: {denoise: 90, load: 7200.5}
sampling:
  num_frames: 49
  guidance_scale: 6.0
seed: 7
"""

MINIMAL = {"model.id": "m", "manifest.uri": "a", "output.uri": "b"}
