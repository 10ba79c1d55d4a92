"""Every number a `media:` rule can ask about one image or one recording, and the table that holds them.

One row per image or speech segment of a document. A measure that has no meaning for a segment, or that cannot be known
(the file does not decode), is null; no rule fires on null. This is the table alone: rules are checked against it
without loading a decoder.
"""

from __future__ import annotations

import pyarrow as pa

# The thumbnail by which two images are compared: luminance, then Cb and Cr, each a square of area means.
THUMB_SIDE = 32
THUMB_CHROMA_SIDE = 8
THUMB_BYTES = THUMB_SIDE**2 + 2 * THUMB_CHROMA_SIDE**2

# Shares are of the pixels or samples as decoded for measuring: large images are measured at reduced size.
ITEM_MEASURES: dict[str, tuple[pa.DataType, str]] = {
    # images and recordings
    "decoded": (pa.int8(), "1 when the file decodes to its end, else 0."),
    "truncated": (pa.int8(), "1 when the file is cut short, else 0."),
    "file_bytes": (pa.int64(), "Bytes of the file; null when it cannot be read."),
    # images
    "web_format": (pa.int8(), "1 for JPEG, PNG and WebP, 0 for every other image format."),
    "width": (pa.int32(), "Pixels, after EXIF orientation."),
    "height": (pa.int32(), "Pixels, after EXIF orientation."),
    "min_side": (pa.int32(), "Pixels of the shorter side."),
    "max_side": (pa.int32(), "Pixels of the longer side."),
    "aspect": (pa.float32(), "Longer over shorter side, at least 1."),
    "bytes_per_pixel": (pa.float32(), "Bytes of the file per pixel of its first frame."),
    "luminance_std": (pa.float32(), "Standard deviation of the luminance, 0 to 127.5 (blank: about 0)."),
    "top_colour_share": (
        pa.float32(),
        "Share of pixels of the most frequent colour, at 5 bits per channel (one colour: 1).",
    ),
    "sharpness": (pa.float32(), "Variance of the Laplacian of the luminance (blurred: small)."),
    "frames": (pa.int32(), "Frames of the image; above 1 it is animated."),
    "has_alpha": (pa.int8(), "1 when the image has an alpha channel or a transparent colour, else 0."),
    "transparent_share": (
        pa.float32(),
        "Share of pixels that are more than half transparent; 0 without alpha.",
    ),
    "colour_channels": (pa.int8(), "Channels without alpha: 1 grey, 3 colour (palettes too), 4 CMYK."),
    "exif_orientation": (pa.int8(), "EXIF orientation, 1 to 8; 1 is upright or not stated."),
    # recordings
    "seconds": (pa.float32(), "Seconds of sound."),
    "rate": (pa.int32(), "Samples per second."),
    "channels": (pa.int8(), "Channels of sound."),
    "peak": (pa.float32(), "Greatest absolute sample; full scale is 1."),
    "loudness_dbfs": (pa.float32(), "Root mean square in dB of full scale; at least -120."),
    "dc_offset": (pa.float32(), "Absolute mean of the samples; full scale is 1."),
    "clipped_share": (
        pa.float32(),
        "Share of samples at full scale, or in runs of 3 or more equal samples within 2% of the peak.",
    ),
    "silence_share": (pa.float32(), "Share of 20 ms frames below the configured level of silence."),
    "transcript_words": (pa.int32(), "Words of the transcript; null without one."),
    "words_per_second": (pa.float32(), "Words of the transcript per second of sound; null without one."),
    "chars_per_second": (
        pa.float32(),
        "Visible characters of the transcript per second of sound; null without one.",
    ),
}

ITEM_MEASURE_NAMES: tuple[str, ...] = tuple(ITEM_MEASURES)

# What identifies a segment and its content. `sha256` (of the file) and `pixel_hash` (of the decoded RGB pixels and
# their size, first 16 bytes of a sha256) find exact copies, `phash` and `thumb` near ones; null where not decoded.
ITEMS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),  # row of the document in its part
        pa.field("segment", pa.int32(), nullable=False),  # index in the segments of the document
        pa.field("kind", pa.string(), nullable=False),  # "image" or "speech"
        *(pa.field(name, dtype) for name, (dtype, _) in ITEM_MEASURES.items()),
        pa.field("format", pa.string()),  # as the decoder names it: "JPEG", "PNG", "WAV", "FLAC", ...
        pa.field("mode", pa.string()),  # colour mode of the file: "RGB", "P", "CMYK", "I;16", ...
        pa.field("sha256", pa.string()),  # of the file, hex, as ingest measured it
        pa.field("pixel_hash", pa.binary(16)),
        pa.field("phash", pa.uint64()),
        pa.field("thumb", pa.binary(THUMB_BYTES)),  # uint8: luminance, Cb, Cr
        pa.field("error", pa.string()),  # "<reason>: <what>" where decoded is 0
    ]
)
