"""Links between store URLs: relative where both are on one filesystem, so that stores can be moved together."""

from __future__ import annotations

import posixpath


def top_of(url: str) -> tuple[str, str]:
    """Split a URL into (URL of its filesystem: `/`, a bucket or a server; path below that)."""
    scheme, mark, path = url.rpartition("://")
    if not mark:
        return "/", path.lstrip("/")
    top, _, below = path.lstrip("/").partition("/")
    return f"{scheme}://{top}", below


def relative_url(url: str, base: str) -> str:
    """Return `url` relative to the folder `base` where both are on one filesystem, else `url` itself."""
    scheme, _, path = url.rpartition("://")
    base_scheme, _, base_path = base.rpartition("://")
    if scheme != base_scheme or scheme and path.split("/")[0] != base_path.split("/")[0]:
        return url
    return posixpath.relpath(path, base_path)


def absolute_url(url: str, base: str) -> str:
    """Return the URL that `relative_url(..., base)` shortened to `url`."""
    if "://" in url or url.startswith("/"):
        return url
    scheme, mark, path = base.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(path, url))
