"""Frame Flexible Network: one video network, trained once, that serves every frame count."""

from ffn import backbones
from ffn.backbones.per_frame import PerFrame
from ffn.checkpoint import CheckpointError, load, save
from ffn.deploy import Deployed, deploy
from ffn.flexible import FrameFlexible, WeightAlteration
from ffn.predict import Prediction, Predictor
from ffn.preprocess import Preprocess
from ffn.pretrained import load_pretrained
from ffn.registry import Spec, create_backbone, create_model, list_models, usual_frames
from ffn.released import load_released
from ffn.video import VideoError, open_video

__all__ = [
    "CheckpointError",
    "Deployed",
    "FrameFlexible",
    "PerFrame",
    "Prediction",
    "Predictor",
    "Preprocess",
    "Spec",
    "VideoError",
    "WeightAlteration",
    "backbones",
    "create_backbone",
    "create_model",
    "deploy",
    "list_models",
    "load",
    "load_pretrained",
    "load_released",
    "open_video",
    "save",
    "usual_frames",
]
