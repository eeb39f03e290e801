"""Frames to files and back: mp4, gif, png, npy; conditioning images and clips in.

Frames of a video are arrays of shape (F, H, W, 3). Encoding is reproducible: the same frames with the
same settings and tags give the same bytes on every host that has the same ffmpeg and Pillow.
"""

from PIL import Image

from vidgen_dist.media.decoding import (
    ANIMATION_FORMATS,
    IMAGE_FORMATS,
    MAX_IMAGE_PIXELS,
    MediaError,
    MediaLimits,
    ignore_warnings,
    media_digest,
    read_encoded,
    read_image,
    read_video,
)
from vidgen_dist.media.encoding import (
    FOLDER_DIGITS,
    FORMATS,
    GIF_END,
    MAX_GIF_FPS,
    EncodedVideo,
    Frames,
    commit_video,
    to_uint8,
    video_stem,
    write_video,
)
from vidgen_dist.media.frame_count import count_frames
from vidgen_dist.media.tags import read_tags

__all__ = [
    "ANIMATION_FORMATS",
    "FOLDER_DIGITS",
    "FORMATS",
    "GIF_END",
    "IMAGE_FORMATS",
    "MAX_GIF_FPS",
    "MAX_IMAGE_PIXELS",
    "EncodedVideo",
    "Frames",
    "MediaError",
    "MediaLimits",
    "commit_video",
    "count_frames",
    "ignore_warnings",
    "media_digest",
    "read_encoded",
    "read_image",
    "read_tags",
    "read_video",
    "to_uint8",
    "video_stem",
    "write_video",
]

# Now, while there is one thread: Pillow loads its plugins on first use, which two threads must not do at
# once.
Image.init()
