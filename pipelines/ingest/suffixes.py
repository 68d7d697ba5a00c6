"""File endings and the reader that takes them: the one table that says what `ingest_folder` can read.

An ending only chooses the reader. What a picture or a video really is, its bytes say later.
"""

from __future__ import annotations

TEXTS = (".txt", ".text", ".rst", ".org", ".adoc", ".tex", ".txt.gz", ".txt.zst")
MARKDOWNS = (".md", ".markdown", ".mdown", ".qmd", ".rmd", ".mdx")
CODES = (
    *(".py", ".pyi", ".ipy", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".cu", ".cs", ".java", ".kt", ".scala", ".go"),
    *(".rs", ".js", ".mjs", ".ts", ".jsx", ".tsx", ".css", ".php", ".rb", ".pl", ".lua", ".r", ".jl", ".hs", ".ml"),
    *(".swift", ".sh", ".bash", ".sql", ".proto", ".cmake", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
)
LINES = (
    *(".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz"),
    *(".jsonl.zst", ".ndjson.zst", ".json.zst"),
)
TRAJECTORIES = (".traj",)
"""Of SWE-agent: JSON, one value."""
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst", ".tsv.zst")
COLUMNS = (".parquet", ".arrow", ".feather", ".ipc")
IMAGES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga", ".pcx", ".sgi", ".psd", ".dds", ".qoi"),
)
VIDEOS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv")
PDFS = (".pdf",)
PAGES = (".html", ".htm", ".xhtml")
ARCHIVES = (".warc", ".warc.gz", ".arc", ".arc.gz")
"""Of crawls."""
CAPTIONS = (".txt", ".caption", ".json", ".xml", ".hocr", ".srt", ".vtt")
"""Beside a picture or clip of the same name."""

READERS: dict[str, str] = {
    suffix: reader
    for reader, suffixes in {
        "text": TEXTS,
        "markdown": MARKDOWNS,
        "code": CODES,
        "rows": (*LINES, *TRAJECTORIES, *TABLES, *COLUMNS),
        "image": IMAGES,
        "video": VIDEOS,
        "page": PAGES,
        "pdf": PDFS,
        "archive": ARCHIVES,
    }.items()
    for suffix in suffixes
}

CUT_AT_LINES = frozenset({".jsonl", ".ndjson", ".txt", ".text"})
"""Large ones become several units."""

CUT_AT_RECORDS = frozenset({".warc.gz", ".arc.gz"})
"""Those of which a record is a gzip member of its own become several units, too."""

PACKINGS = (".gz", ".zst")
"""Of whole files, behind the ending of what is packed."""
DATASET_NOTES = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
"""What `datasets` saves beside its Arrow files; no rows."""
