"""Small real data sets that travel with the package, and loaders for what is fetched: checked, cached, atomic."""

from fullrank.data.dataset import DataFile, Dataset, Record
from fullrank.data.download import ChecksumError, DownloadError, download
from fullrank.data.loading import bundled_encoder, dataset, datasets, load, locate

__all__ = [
    "ChecksumError",
    "DataFile",
    "Dataset",
    "DownloadError",
    "Record",
    "bundled_encoder",
    "dataset",
    "datasets",
    "download",
    "load",
    "locate",
]
