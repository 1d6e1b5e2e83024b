"""A video file as a player finds it: opened anew, read from its first byte to its last.

Every packet is read and counted, and the key frames are decoded: those where a player can begin, and on which all
others stand. Decoding the others too would prove little more, since their bytes have come from the encoder this moment,
and is not cheap where the picture is noise: a tenth of the whole job for a model as small as the demo's.
"""

from pathlib import Path

import av

from workers.generation.quality import Shape


def play(path: Path) -> Shape | None:
    """The size, the number of frames, and the rate. None where it is no video, or a key frame cannot be decoded."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames, owed = 0, 0
            for packet in container.demux(stream):
                if packet.size:
                    frames += 1
                if packet.is_keyframe or not packet.size:  # the last, empty one brings out what the decoder holds back
                    owed += bool(packet.size) - sum(not frame.is_corrupt for frame in packet.decode())
            context = stream.codec_context
            whole = frames > 0 and owed == 0
            return Shape(context.width, context.height, frames, float(stream.average_rate or 0)) if whole else None
    except (av.FFmpegError, IndexError):  # not a video, or broken on the way; or without a video in it
        return None
