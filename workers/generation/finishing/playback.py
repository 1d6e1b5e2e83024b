"""Read a video file as a player does: opened again, from its first byte to its last.

Every packet is read and counted, and the key frames are decoded, because players start there and all other frames
depend on them. Decoding the others too would prove little more, since the encoder has just written them, and costs a
tenth of the whole job for noise from a model as small as the demo's.
"""

from pathlib import Path

import av

from workers.generation.frames.quality import Shape


def play(path: Path) -> Shape | None:
    """Return the size, number of frames, and rate. None if it is no video, or a key frame cannot be decoded."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames, undecoded = 0, 0
            for packet in container.demux(stream):
                if packet.size:
                    frames += 1
                if packet.is_keyframe or not packet.size:  # the last, empty packet flushes the decoder
                    undecoded += bool(packet.size) - sum(not frame.is_corrupt for frame in packet.decode())
            context = stream.codec_context
            whole = frames > 0 and undecoded == 0
            return Shape(context.width, context.height, frames, float(stream.average_rate or 0)) if whole else None
    except (av.FFmpegError, IndexError):  # not a video, damaged, or without a video stream
        return None
