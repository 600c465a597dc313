"""Small real data sets that travel with the package, and loaders for what is fetched: checked, cached, atomic."""

from fullrank.data.dataset import DataFile, Dataset
from fullrank.data.download import ChecksumError, DownloadError, download
from fullrank.data.loading import bundled_encoder, dataset, datasets, load, locate, path
from fullrank.data.reading import Format, Record

__all__ = [
    "ChecksumError",
    "DataFile",
    "Dataset",
    "DownloadError",
    "Format",
    "Record",
    "bundled_encoder",
    "dataset",
    "datasets",
    "download",
    "load",
    "locate",
    "path",
]
