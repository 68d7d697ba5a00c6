"""Names by which ingest recognizes data: file suffixes by format, and the row fields that hold media.

`ingest/documents.py` gives each group of suffixes its reader. A suffix only chooses the reader; the format of an image
or video is determined later, from its bytes.
"""

from __future__ import annotations

from typing import Literal

TEXTS = (".txt", ".text", ".rst", ".org", ".adoc", ".tex", ".txt.gz", ".txt.zst")
MARKDOWNS = (".md", ".markdown", ".mdown", ".qmd", ".rmd", ".mdx")
CODES = (
    *(".py", ".pyi", ".ipy", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cs", ".java", ".kt", ".scala", ".go"),
    *(".rs", ".js", ".mjs", ".ts", ".jsx", ".tsx", ".css", ".php", ".rb", ".pl", ".lua", ".r", ".jl", ".hs", ".ml"),
    *(".swift", ".sh", ".bash", ".sql", ".proto", ".cmake", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
)
JSONS = (
    *(".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    *(".jsonl.zst", ".ndjson.zst", ".json.zst"),
)
"""JSON lines, and JSON files that hold one value."""
TRAJECTORIES = (".traj",)
"""Trajectories of SWE-agent: one JSON value per file."""
DELIMITED = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
COLUMNAR = (".parquet", ".arrow", ".feather", ".ipc")
IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".pcx", ".sgi", ".psd", ".dds", ".qoi"),
)
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv")
PDFS = (".pdf",)
HTMLS = (".html", ".htm", ".xhtml")
CRAWLS = (".warc", ".warc.gz", ".arc", ".arc.gz")
"""Archives of web crawls."""

MEDIA_KINDS: dict[str, Literal["image", "video"]] = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(VIDEOS, "video"),
}
"""Suffix -> kind of medium."""

CAPTIONS = (".txt", ".caption", ".json", ".xml", ".hocr", ".srt", ".vtt")
"""Suffixes of a file that describes the image or video of the same name, best first."""

CUT_AT_LINES = frozenset({".jsonl", ".ndjson", ".txt", ".text"})
"""A large file becomes several units, cut at line ends."""
CUT_AT_RECORDS = frozenset({".warc.gz", ".arc.gz"})
"""A large file becomes several units, cut where the gzip member of a record begins."""

COMPRESSIONS = (".gz", ".zst")
"""Suffix of a compressed file, after the suffix of its content."""
DATASET_NOTES = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
"""Names of the JSON files that the library `datasets` saves next to its Arrow files. They hold no rows."""

IMAGE_FIELDS = ("file_name", "image", "images", "image_path", "img", "img_path", "imgname")
MEDIA_FIELDS = (*IMAGE_FIELDS, "video", "videos", "video_path", "media")
"""Fields of a JSON record or table row that hold media, or the paths of media."""
