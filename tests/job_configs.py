"""Configurations of the job tests, from settings by their bare names."""

import json

from trainers.config import Config

SMALL = {"clips": 48, "val_clips": 21, "size": 32, "batch_size": 16, "frames": (2, 4), "workers": 1}
SMALL |= {"device": "cpu", "precision": "fp32"}


def make_config(out, **settings):
    return Config.from_json(json.dumps({"out": str(out), "frames": (4, 8, 16)} | settings))
