"""Which files are taken as images."""

EXTENSIONS = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
        *(".avif", ".avifs", ".jxl", ".heic", ".heics", ".heif", ".heifs", ".hif"),
    )
)
"""Files with these are taken as images; those that Pillow cannot read are reported."""
